package mlxstdio

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A host can follow what becomes of its engine, and use the client while it is told.
func TestARestartIsTold(t *testing.T) {
	noLeaks(t)
	told := make(chan string, 4)
	var c *Client
	begun := make(chan struct{})
	c = startFake(t, "", Options{
		Restart: &Restart{Wait: time.Millisecond},
		OnExit:  func(exit *ExitError) { told <- fmt.Sprint("left ", exit.Signal) },
		OnRestart: func(attempt int, err error) {
			<-begun
			told <- fmt.Sprint("back ", attempt, err, c.Ping(context.Background()))
		},
	})
	close(begun)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if first, second := <-told, <-told; first != "left killed" || second != "back 1 <nil> <nil>" {
		t.Errorf("told %q, %q", first, second)
	}
}

func TestAFailedRestartIsTold(t *testing.T) {
	options, _ := fragile(t, "")
	options.Restart.Attempts = 2
	options.Cmd.Args[2] = strings.Replace(options.Cmd.Args[2], "else exec", "else exit 9; exec", 1)
	told := make(chan error, 4)
	options.OnRestart = func(attempt int, err error) { told <- err }
	c := start(t, options)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		var exit *ExitError
		if err := <-told; !errors.As(err, &exit) || exit.Code != 9 {
			t.Errorf("told %v", err)
		}
	}
}

func TestARetryIsTold(t *testing.T) {
	options, _ := fragile(t, `{"delayMs": 20, "exit": 70}`)
	c := start(t, options)
	var reasons []error
	result, err := c.Generate(limited(t), deadly, OnRetry(func(reason error) { reasons = append(reasons, reason) }))
	if err != nil || result.Text != "die" {
		t.Fatal(err)
	}
	var lost *LostError
	var exit *ExitError
	if len(reasons) != 1 || !errors.As(reasons[0], &lost) || lost.Streamed || lost.Method != MethodGenerate || !errors.As(lost.Cause, &exit) {
		t.Errorf("told %v", reasons)
	}
}

// What a host has ended by its own word is not begun again.
func TestShutdownIsNotRepeated(t *testing.T) {
	c := startFake(t, "", Options{Restart: &Restart{Wait: time.Millisecond, Retries: 5}})
	if err := c.Call(limited(t), MethodShutdown, nil, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Generate(limited(t), prompt); !errors.Is(err, CodeShuttingDown) {
		t.Errorf("got %v", err)
	}
	script := `{"rules": [{"method": "shutdown", "steps": [{"exit": 70}]}]}`
	c = startFake(t, script, Options{Restart: &Restart{Wait: time.Millisecond, Retries: 5}})
	var exit *ExitError
	if err := c.Call(limited(t), MethodShutdown, nil, nil); !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
}

func TestAnEngineThatWasToldToLeaveIsNotStartedAgain(t *testing.T) {
	for name, restart := range map[string]*Restart{"restart": {Wait: time.Millisecond}, "none": nil} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			c := startFake(t, "", Options{Restart: restart,
				OnExit: func(exit *ExitError) { t.Errorf("told of %v", exit) }})
			if err := c.Call(limited(t), MethodShutdown, nil, nil); err != nil {
				t.Fatal(err)
			}
			if err := c.Notify(limited(t), MethodExit, nil); err != nil {
				t.Fatal(err)
			}
			<-c.Done()
			if err := errors.Join(c.Err(), c.Close()); err != nil {
				t.Error(err)
			}
			if err := c.Ping(limited(t)); !errors.Is(err, ErrClosed) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestDoIsForAnyGeneration(t *testing.T) {
	c := startFake(t, "", Options{})
	for _, request := range []GenerationRequest{
		&GenerateParams{Prompt: Prompt("ab")},
		&ChatParams{Messages: []ChatMessage{Assistant("no"), User("ab")}},
		&InfillParams{Prefix: "a", Suffix: "b"},
	} {
		result, err := c.Do(limited(t), request)
		if err != nil || result.Text != "ab" || result.FinishReason != FinishReasonStop {
			t.Errorf("%T: %+v, %v", request, result, err)
		}
	}
	if _, err := c.Do(limited(t), &GenerateParams{Generation: Generation{Model: "nosuch"}, Prompt: Prompt("a")}); !errors.Is(err, KindModelNotFound) {
		t.Errorf("got %v", err)
	}
}

func TestTheDefaultModelCanBeLoadedAtTheStart(t *testing.T) {
	c := startFake(t, "", Options{Load: &LoadParams{}}, "--model", "mine")
	models, err := c.Models(limited(t))
	if err != nil || models[0].ID != "mine" || models[0].State != StateReady {
		t.Errorf("got %+v, %v", models, err)
	}
}

func TestTheLastLineThatSaysSomething(t *testing.T) {
	for text, want := range map[string]string{
		"":                                    "",
		"a\nb\n\n":                            "b",
		"KeyError: 1\n{\"level\":\"info\"}\n": "KeyError: 1",
		"a\n{\"level\":\"error\",\"event\":\"x\"}": `{"level":"error","event":"x"}`,
		`{"level":"debug"}`:                        "",
		strings.Repeat("x", 1000):                  strings.Repeat("x", 300),
	} {
		if found := lastLine(text); found != want {
			t.Errorf("%q: %q", text, found)
		}
	}
}
