package mlxstdio

import (
	"errors"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What a request gets whose engine, or whose client, is at its end.

func TestRequestsAfterTheEngineHasGone(t *testing.T) {
	noLeaks(t)
	c := startFake(t, "", Options{})
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	var lost *LostError
	var exit *ExitError
	_, err := c.Generate(limited(t), prompt)
	if !errors.As(err, &lost) || lost.Method != MethodGenerate || lost.Streamed || !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
	if err := c.Notify(limited(t), "x", nil); !errors.As(err, &lost) || lost.Method != "x" {
		t.Errorf("got %v", err)
	}
}

// That the first model cannot be loaded any more is not the answer to a request for another one.
func TestTheRefusalOfTheFirstModelIsNobodysAnswer(t *testing.T) {
	noLeaks(t)
	options, _ := fragile(t, "")
	refuses := fakeCommand(t, `{"rules": [{"method": "models/load", "steps": [{"error": {"kind": "modelNotFound", "message": "none"}}]}]}`)
	at := strings.Index(options.Cmd.Args[2], "else exec")
	options.Cmd.Args[2] = options.Cmd.Args[2][:at] + "else exec " + quoted(refuses.Args) + "; fi"
	options.Restart = &Restart{Wait: time.Millisecond, Attempts: 2}
	options.Load = &LoadParams{}
	c := start(t, options)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	if err := c.Err(); !errors.Is(err, ErrGivenUp) || !errors.Is(err, KindModelNotFound) {
		t.Errorf("got %v", err)
	}
	var lost *LostError
	_, err := c.Generate(limited(t), prompt)
	if !errors.As(err, &lost) || errors.Is(err, KindModelNotFound) || !errors.Is(err, ErrGivenUp) {
		t.Errorf("got %v", err)
	}
}

// Whatever Close cuts short says so, also if it was the engine that refused it.
func TestWhatCloseCutsShortIsClosed(t *testing.T) {
	noLeaks(t)
	c := startFake(t, `{"tokenMs": 20}`, Options{Grace: 100 * time.Millisecond})
	params := &GenerateParams{Prompt: Prompt(strings.Repeat("x", 2000)), Generation: Generation{MaxTokens: 2000}}
	stream, err := c.Stream(limited(t), params)
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range stream.Deltas() {
		if last = err; err == nil && !c.isClosing() {
			go func() { _ = c.Close() }()
		}
	}
	if !errors.Is(last, ErrClosed) || strings.Contains(last.Error(), "sent again") {
		t.Errorf("got %v", last)
	}
	<-c.Done()
}

func TestNothingIsSentAgainOnATransport(t *testing.T) {
	noLeaks(t)
	ours, theirs := net.Pipe()
	go func() {
		_, _ = theirs.Read(make([]byte, 10))
		_ = theirs.Close()
	}()
	c := NewClient(ours, Options{Restart: &Restart{}})
	var lost *LostError
	_, err := c.Generate(limited(t), prompt, OnRetry(func(reason error) { t.Errorf("a retry: %v", reason) }))
	if !errors.As(err, &lost) || lost.Method != MethodGenerate {
		t.Errorf("got %v", err)
	}
	_ = c.Close()

	c, p := connect(t, Options{Restart: &Restart{}})
	go func() {
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":1008,"message":"broken","data":{"kind":"engineFault"}}}`, p.read().ID)
	}()
	_, err = c.Generate(limited(t), prompt, OnRetry(func(reason error) { t.Errorf("a retry: %v", reason) }))
	if !errors.Is(err, KindEngineFault) || errors.Is(err, errStays) {
		t.Errorf("got %v", err)
	}
}

// A retry that is told of is one: not where there will be no engine any more.
func TestTheLastRetryIsOne(t *testing.T) {
	noLeaks(t)
	options, _ := fragile(t, `{"delayMs": 20, "exit": 70}`)
	options.Restart = &Restart{Wait: 200 * time.Millisecond, Attempts: 2, Retries: 9}
	options.Cmd.Args[2] = strings.Replace(options.Cmd.Args[2], "else exec", "else exit 9; exec", 1)
	c := start(t, options)
	told := 0
	_, err := c.Generate(limited(t), deadly, OnRetry(func(error) { told++ }))
	if !errors.Is(err, ErrGivenUp) || told != 1 {
		t.Errorf("told of %d retries; %v", told, err)
	}
}

func TestWhatIsLostByCloseSaysSo(t *testing.T) {
	for cause, want := range map[error]string{
		ErrClosed:         "mlxstdio: chat: lost after some of its text: the client is closed",
		errors.New("odd"): "mlxstdio: chat: lost after some of its text, so it is not sent again: odd",
	} {
		if got := (&LostError{MethodChat, true, cause}).Error(); got != want {
			t.Errorf("got %q", got)
		}
	}
}

// An engine that refuses and stays is not waited for without a reason.
func TestARefusalThatStaysKeepsItsReason(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [{"error": {"kind": "engineFault", "message": "the reason"}}]}]}`
	c := startFake(t, script, Options{Restart: &Restart{}, TermGrace: time.Millisecond})
	_, err := c.Generate(limited(t), prompt)
	if !errors.Is(err, KindEngineFault) || !errors.Is(err, errStays) || !strings.Contains(err.Error(), "the reason") {
		t.Errorf("got %v", err)
	}
}

// Who panics has left: in the loop, and in what hears of progress.
func TestAPanicCancels(t *testing.T) {
	noLeaks(t)
	panics := func(name string, does func()) {
		defer func() {
			if recover() == nil {
				t.Errorf("%s: no panic", name)
			}
		}()
		does()
	}
	for name, does := range map[string]func(c *Client){
		"loop": func(c *Client) {
			for range generate(t, c, limited(t)).Deltas() {
				panic("in the loop")
			}
		},
		"progress of a stream": func(c *Client) {
			stream, _ := c.Stream(limited(t), prompt, OnProgress(func(Progress) { panic("told") }))
			for range stream.Deltas() {
				t.Error("a delta")
			}
		},
		"progress of a call": func(c *Client) {
			_, _ = c.Generate(limited(t), prompt, OnProgress(func(Progress) { panic("told") }))
		},
		"result": func(c *Client) {
			stream, _ := c.Stream(limited(t), prompt, OnProgress(func(Progress) { panic("told") }))
			_, _ = stream.Result()
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, p := connect(t, Options{})
			cancelled := make(chan string)
			go func() {
				id := p.read().ID
				if name == "loop" {
					p.delta(id, 0, "a")
				} else {
					p.write(`{"jsonrpc":"2.0","method":"$/progress","params":{"requestId":%s,"phase":"prefill","completed":0,"total":9,"unit":"tokens"}}`, id)
				}
				cancelled <- p.read().Method
				p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32800,"message":"cancelled","data":{"kind":"cancelled"}}}`, id)
			}()
			panics(name, func() { does(c) })
			if method := <-cancelled; method != MethodCancelRequest {
				t.Errorf("sent %q", method)
			}
		})
	}
}
