package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What the end of a context does, and what it does beyond its end, and beyond a request's.

func TestACancelledContextReturnsAtOnce(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{})
	ctx, cancel := context.WithCancel(limited(t))
	ended := make(chan error, 1)
	go func() {
		_, err := c.Generate(ctx, prompt)
		ended <- err
	}()
	request := p.read()
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) { // the engine has said nothing
		t.Errorf("got %v", err)
	}
	told := p.read()
	if told.Method != "$/cancelRequest" || fmt.Sprint(told.Params["id"]) != string(request.ID) {
		t.Errorf("sent %+v", told)
	}
	// What still comes for it is drained.
	p.delta(request.ID, 0, "late")
	p.reply(request.ID, outcome("late"))
	go func() {
		next := p.read()
		if next.Method != "ping" {
			t.Errorf("sent %+v", next)
		}
		p.reply(next.ID, `{}`)
	}()
	if err := c.Ping(limited(t)); err != nil {
		t.Error(err)
	}
	if left := c.conn.inFlight(); left != 0 {
		t.Errorf("%d requests are still in flight", left)
	}
}

func TestADeadlineTravels(t *testing.T) {
	c, p := connect(t, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	go c.Generate(ctx, prompt)
	params := p.read().Params
	if ms := params["timeoutMs"].(float64); ms <= 0 || ms > 3600_000 || params["stream"] != false {
		t.Errorf("params: %v", params)
	}
	go c.Load(ctx, &LoadParams{Model: "m", TimeoutMs: 5})
	if ms := p.read().Params["timeoutMs"].(float64); ms != 5 {
		t.Errorf("timeoutMs: %v", ms)
	}
	go c.Unload(context.Background(), &UnloadParams{Model: "m"})
	if params := p.read().Params; params["timeoutMs"] != nil {
		t.Errorf("params: %v", params)
	}
	far, cancelFar := context.WithDeadline(context.Background(), time.Unix(1<<40, 0))
	defer cancelFar()
	go c.Generate(far, prompt)
	if ms := p.read().Params["timeoutMs"].(float64); ms < 1e12 {
		t.Errorf("timeoutMs: %v", ms)
	}
	if prompt.TimeoutMs != 0 || prompt.Stream != nil {
		t.Errorf("the host's own params were changed: %+v", prompt)
	}
}

func TestADeadlineThatPassesIsOne(t *testing.T) {
	c, p := connect(t, Options{})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	go p.read()
	if _, err := c.Generate(ctx, prompt); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

func TestAnEndedContextSendsNothing(t *testing.T) {
	c, p := connect(t, Options{})
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, one := c.Generate(ctx, prompt)
	_, two := c.Stream(ctx, prompt)
	_, three := c.Initialize(ctx)
	for _, err := range []error{one, two, three, c.Notify(ctx, "note", nil)} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
	}
	go c.Ping(limited(t))
	if first := p.read(); first.Method != MethodPing {
		t.Errorf("sent %+v", first)
	}
	file := filepath.Join(t.TempDir(), "started")
	if _, err := Start(ctx, Options{Cmd: shell("touch " + file)}); !errors.Is(err, context.Canceled) || exists(file) {
		t.Errorf("got %v", err)
	}
}

// observed is a context that tells how many wait for its end, and never tells them of it.
type observed struct {
	context.Context
	waiting int
}

func (o *observed) AfterFunc(func()) func() bool {
	o.waiting++
	return func() bool {
		o.waiting--
		return true
	}
}

// Value hides what is inside, to which it would be added else.
func (o *observed) Value(any) any { return nil }

// The context of a stream is often that of the whole program, which must not collect its streams.
func TestAStreamThatWasLeftIsForgotten(t *testing.T) {
	c, p := connect(t, Options{})
	ctx := &observed{Context: limited(t)}
	go func() {
		id := p.read().ID
		p.delta(id, 0, "a")
	}()
	for range generate(t, c, ctx).Deltas() {
		break
	}
	if ctx.waiting != 0 {
		t.Errorf("%d after a break", ctx.waiting)
	}
	if err := generate(t, c, ctx).Close(); err != nil || ctx.waiting != 0 {
		t.Errorf("%d after Close, %v", ctx.waiting, err)
	}
	go func() {
		for range 3 { // a request, and two cancels
			p.read()
		}
		p.reply(p.read().ID, outcome("a"))
	}()
	if _, err := generate(t, c, ctx).Result(); err != nil || ctx.waiting != 0 {
		t.Errorf("%d at the end, %v", ctx.waiting, err)
	}
}

// Deltas that wait are of no interest any more once the context has ended.
func TestTheEndOfAContextComesBeforeWhatWaits(t *testing.T) {
	c, p := connect(t, Options{})
	inner, cancel := context.WithCancel(limited(t))
	defer cancel()
	go func() {
		id := p.read().ID
		for seq := range 5 {
			p.delta(id, seq, "a")
		}
		p.reply(p.read().ID, `{}`)
	}()
	stream := generate(t, c, &observed{Context: inner})
	if err := c.Ping(limited(t)); err != nil { // all deltas have come
		t.Fatal(err)
	}
	deltas, last := 0, error(nil)
	for _, err := range stream.Deltas() {
		if last = err; err == nil {
			deltas++
			cancel()
		}
	}
	if deltas != 1 || !errors.Is(last, context.Canceled) {
		t.Errorf("%d deltas, %v", deltas, last)
	}
}

// timed is a context whose time is up when its own one ends.
type timed struct{ context.Context }

func (d timed) Err() error {
	if d.Context.Err() != nil {
		return context.DeadlineExceeded
	}
	return nil
}

// crossed is a stream whose time is up, and which the engine has answered since.
func crossed(t *testing.T, answer func(p *peer, id json.RawMessage)) *Stream {
	t.Helper()
	c, p := connect(t, Options{})
	inner, cancel := context.WithCancel(limited(t))
	go func() {
		id := p.read().ID
		cancel()
		p.read()
		answer(p, id)
	}()
	stream := generate(t, c, timed{inner})
	eventually(t, "the reply", func() bool { return c.conn.inFlight() == 0 })
	return stream
}

// An engine that was told to stop because the time was up answers that it was told to stop.
func TestADeadlineIsNotMistakenForACancel(t *testing.T) {
	stream := crossed(t, func(p *peer, id json.RawMessage) {
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32800,"message":"cancelled","data":{"kind":"cancelled"}}}`, id)
	})
	if _, err := stream.Result(); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// Nor is a text taken for the whole, or its end for a cancel, where the reply has crossed the deadline.
func TestAReplyThatCrossesTheDeadline(t *testing.T) {
	stream := crossed(t, func(p *peer, id json.RawMessage) { p.reply(id, outcome("a")) })
	var last error
	for _, last = range stream.Deltas() {
	}
	if !errors.Is(last, context.DeadlineExceeded) || errors.Is(last, context.Canceled) {
		t.Errorf("got %v", last)
	}
}

// A cancel may also come while a request is being sent.
func TestARequestThatIsLeftWhileItIsSent(t *testing.T) {
	c, p := connect(t, Options{})
	x := c.exchange(limited(t), MethodGenerate, prompt, nil)
	x.leave()
	if err := x.send(); err != nil {
		t.Fatal(err)
	}
	request, told := p.read(), p.read()
	if told.Method != MethodCancelRequest || fmt.Sprint(told.Params["id"]) != string(request.ID) {
		t.Errorf("sent %+v", told)
	}
}

// A stream that waits for the engine to come back can be closed meanwhile.
func TestCloseOfAStreamThatIsToBeSentAgain(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [{"silent": true}]}]}`
	c := startFake(t, script, Options{Restart: &Restart{Wait: time.Hour, MaxWait: time.Hour}})
	stream := generate(t, c, limited(t))
	if err := c.Ping(limited(t)); err != nil {
		t.Fatal(err)
	}
	process, err := os.FindProcess(c.Pid())
	if err := errors.Join(err, process.Kill()); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := stream.Result()
		ended <- err
	}()
	eventually(t, "it is to be sent again", func() bool { return stream.Retries() == 1 })
	if err := errors.Join(stream.Close()); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
