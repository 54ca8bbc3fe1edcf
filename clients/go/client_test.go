package mlxstdio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
)

// These tests play the engine themselves, on a stream in memory, where a real one could not be made
// to do what they are about.

var prompt = &GenerateParams{Prompt: Prompt("x")}

func TestRepliesFindTheirRequests(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{})
	ctx := limited(t)
	const many = 50
	var all sync.WaitGroup
	for number := range many {
		all.Go(func() {
			var echoed int
			if err := c.Call(ctx, "echo", map[string]int{"number": number}, &echoed); err != nil || echoed != number {
				t.Errorf("%d: got %d, %v", number, echoed, err)
			}
		})
	}
	var requests []sent
	for range many {
		requests = append(requests, p.read())
	}
	for at := range requests { // the last one first
		request := requests[many-1-at]
		p.reply(request.ID, fmt.Sprint(request.Params["number"]))
	}
	all.Wait()
}

func TestErrorsTellCodeAndData(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":1004,"message":"busy","data":{"kind":"overloaded","retryAfterMs":70,"later":[1]}}}`, p.read().ID)
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32800,"message":"cancelled","data":{"kind":"cancelled","partial":{"text":"ab","completionTokens":2}}}}`, p.read().ID)
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":1007,"message":"late","data":{"kind":"deadlineExceeded"}}}`, p.read().ID)
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":7,"message":"odd","data":"text"}}`, p.read().ID)
	}()
	ctx := limited(t)
	_, err := c.Generate(ctx, prompt)
	var told *Error
	if !errors.As(err, &told) || told.Data.RetryAfterMs != 70 || told.Method != "generate" || !strings.Contains(string(told.Data.Raw), `"later":[1]`) {
		t.Errorf("got %+v", err)
	}
	for _, target := range []error{CodeOverloaded, KindOverloaded} {
		if !errors.Is(err, target) {
			t.Errorf("%v is not %v", err, target)
		}
	}
	for _, target := range []error{CodeCancelled, KindCancelled, context.Canceled, ErrClosed} {
		if errors.Is(err, target) {
			t.Errorf("%v is %v", err, target)
		}
	}
	_, err = c.Generate(ctx, prompt)
	if !errors.Is(err, context.Canceled) || !errors.As(err, &told) || told.Data.Partial.Text != "ab" {
		t.Errorf("got %+v", err)
	}
	if _, err = c.Generate(ctx, prompt); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("got %+v", err)
	}
	if _, err = c.Generate(ctx, prompt); !errors.Is(err, Code(7)) || !errors.As(err, &told) || string(told.Data.Raw) != `"text"` {
		t.Errorf("got %+v", err)
	}
}

func TestALongLine(t *testing.T) {
	c, p := connect(t, Options{})
	text := strings.Repeat("long ", 2<<20)
	go func() { p.reply(p.read().ID, outcome(text)) }()
	result, err := c.Generate(limited(t), prompt)
	if err != nil || result.Text != text {
		t.Errorf("%v", err)
	}
}

func TestAMessageBeyondTheEnginesLimitIsNotSent(t *testing.T) {
	c, p := connect(t, Options{})
	ctx := limited(t)
	go func() {
		p.reply(p.read().ID, `{"protocolVersion":1,"limits":{"maxMessageBytes":200}}`)
		p.reply(p.read().ID, `{}`)
	}()
	if _, err := c.Initialize(ctx); err != nil || c.Server().Limits.MaxMessageBytes != 200 {
		t.Fatal(err)
	}
	_, err := c.Generate(ctx, &GenerateParams{Prompt: Prompt(strings.Repeat("x", 200))})
	if err == nil || !strings.Contains(err.Error(), "the engine accepts 200") {
		t.Errorf("got %v", err)
	}
	if err := c.Ping(ctx); err != nil {
		t.Error(err)
	}
}

func TestWhatIsUnknownIsPassedOver(t *testing.T) {
	var log bytes.Buffer
	noted := make(chan string, 8)
	c, p := connect(t, Options{
		Logger:         slog.New(slog.NewTextHandler(&log, nil)),
		OnNotification: func(method string, params json.RawMessage) { noted <- method + string(params) },
	})
	go func() {
		id := p.read().ID
		p.write(`{"jsonrpc":"2.0","method":"new/thing","params":[1]}`)
		p.write(`{"jsonrpc":"2.0","method":"models/changed","params":{"model":"m","state":"ready","reason":"request"}}`)
		p.write(``)
		p.write(`{"jsonrpc":"2.0","method":"stream/delta","params":{"requestId":"other","seq":0,"text":"","channel":"content"}}`)
		p.write(`{"jsonrpc":"2.0","method":"$/progress","params":{"requestId":99,"phase":"new","completed":1,"total":2,"unit":"things"}}`)
		p.write(`{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"what was that","data":{"kind":"parseError"}}}`)
		p.write(`[{"jsonrpc":"2.0","id":12345,"result":null},{"jsonrpc":"2.0","id":%s,"result":{"new":1}}]`, id)
	}()
	if err := c.Ping(limited(t)); err != nil {
		t.Error(err)
	}
	if first, second := <-noted, <-noted; first != "new/thing[1]" || !strings.HasPrefix(second, "models/changed{") {
		t.Errorf("noted %s, %s", first, second)
	}
	if !strings.Contains(log.String(), "what was that") {
		t.Errorf("the log has %q", log.String())
	}
}

func TestWhatIsNoMessageEndsTheClient(t *testing.T) {
	for _, line := range []string{"Loading model...", `{"id":1}`, `{"jsonrpc":"2.0","id":1}`, `7`, `{"jsonrpc":"2.0","id":1,"result":`} {
		noLeaks(t)
		c, p := connect(t, Options{})
		go func() {
			p.read()
			p.write("%s", line)
		}()
		err := c.Ping(limited(t))
		if err == nil || !strings.Contains(err.Error(), "no message") || !strings.Contains(err.Error(), fmt.Sprintf("%q", line)) {
			t.Errorf("%s: %v", line, err)
		}
		<-c.Done()
		if c.Err() == nil || c.Ping(limited(t)) == nil {
			t.Errorf("%s: it goes on", line)
		}
	}
}

func TestAMessageThatIsCutShort(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		p.read()
		_, _ = p.stream.Write([]byte(`{"jsonrpc":"2.0",`))
		_ = p.stream.Close()
	}()
	if err := c.Ping(limited(t)); err == nil || !strings.Contains(err.Error(), "cut short") {
		t.Errorf("got %v", err)
	}
}

func TestTheEndOfTheStreamEndsWhatIsInFlight(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{})
	go func() {
		p.read()
		_ = p.stream.Close()
	}()
	_, err := c.Generate(limited(t), prompt)
	if err == nil || !strings.Contains(err.Error(), "before any text") {
		t.Errorf("got %v", err)
	}
	<-c.Done()
}

// half is a stream whose directions end apart from each other, as those of a socket.
type half struct {
	net.Conn
	closed chan struct{}
}

func (h half) CloseWrite() error { return nil }

func (h half) Close() error {
	close(h.closed)
	return h.Conn.Close()
}

func TestAStreamIsClosedAtItsEnd(t *testing.T) {
	noLeaks(t)
	ours, theirs := net.Pipe()
	stream := half{ours, make(chan struct{})}
	c := NewClient(stream, Options{})
	_ = theirs.Close()
	<-c.Done()
	<-stream.closed
}

func TestCloseEndsWhatIsInFlight(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{})
	ended := make(chan error, 1)
	go func() { ended <- c.Ping(limited(t)) }()
	p.read()
	if err := errors.Join(c.Close(), c.Close(), c.Err()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := c.Notify(limited(t), "any", nil); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestNotifyAndParamsThatAreNoJSON(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		if err := c.Notify(limited(t), "note", map[string]int{"a": 1}); err != nil {
			t.Error(err)
		}
	}()
	if note := p.read(); note.ID != nil || note.Method != "note" || note.Params["a"] != 1.0 {
		t.Errorf("sent %+v", note)
	}
	if err := c.Call(limited(t), "any", make(chan int), nil); err == nil {
		t.Error("a channel was sent")
	}
}
