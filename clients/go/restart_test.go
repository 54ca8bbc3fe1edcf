package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// An engine that dies in the first generation, after some text if it says so, and is well afterwards:
// the file is there only once.
func fragile(t *testing.T, steps string) (options Options, log *syncBuffer) {
	t.Helper()
	folder := t.TempDir()
	file := filepath.Join(folder, "first")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	script := `{"rules": [{"method": "generate", "params": {"prompt": "die"}, "steps": [` + steps + `]}]}`
	dying, well := fakeCommand(t, script), fakeCommand(t, "")
	cmd := shell(fmt.Sprintf(`if rm %q 2>/dev/null; then exec %s; else exec %s; fi`, file, quoted(dying.Args), quoted(well.Args)))
	cmd.Dir = dying.Dir
	log = &syncBuffer{}
	return Options{Cmd: cmd, Logger: slog.New(slog.NewTextHandler(log, nil)),
		Restart: &Restart{Wait: time.Millisecond}}, log
}

func quoted(words []string) string {
	var text strings.Builder
	for _, word := range words {
		fmt.Fprintf(&text, "%q ", word)
	}
	return text.String()
}

var deadly = &GenerateParams{Prompt: Prompt("die")}

func TestRestartSendsSilentRequestsAgain(t *testing.T) {
	for name, steps := range map[string]string{"exit": `{"delayMs": 20, "exit": 70}`, "fatal": `{"fatal": "gone"}`} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			options, log := fragile(t, steps)
			var exits atomic.Int32
			options.OnExit = func(*ExitError) { exits.Add(1) }
			c := start(t, options)
			first := c.Pid()
			stream, err := c.Stream(limited(t), deadly)
			if err != nil {
				t.Fatal(err)
			}
			var text strings.Builder
			for delta, err := range stream.Deltas() {
				if err != nil {
					t.Fatal(err)
				}
				text.WriteString(delta.Text)
			}
			if text.String() != "die" || stream.Retries() != 1 || c.Pid() == first || exits.Load() != 1 {
				t.Errorf("%q, %d retries, %d exits", text.String(), stream.Retries(), exits.Load())
			}
			for _, part := range []string{"sent again", "has left", "started again"} {
				if !strings.Contains(log.String(), part) {
					t.Errorf("%q is not in the log: %s", part, log)
				}
			}
			if err := errors.Join(c.Ping(limited(t)), c.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestRestartDoesNotRepeatText(t *testing.T) {
	noLeaks(t)
	options, _ := fragile(t, `{"delta": "a"}, {"delayMs": 20, "exit": 70}`)
	c := start(t, options)
	var got []string
	stream, err := c.Stream(limited(t), deadly)
	if err != nil {
		t.Fatal(err)
	}
	for delta, err := range stream.Deltas() {
		got = append(got, delta.Text)
		if err != nil && !strings.Contains(err.Error(), "not sent again") {
			t.Errorf("got %v", err)
		}
	}
	if strings.Join(got, "|") != "a|" || stream.Retries() != 0 {
		t.Errorf("got %q", got)
	}
	if result, err := c.Generate(limited(t), deadly); err != nil || result.Text != "die" { // the next one is well
		t.Errorf("got %v", err)
	}
}

// A request that ends every engine ends with an error, not with the machine.
func TestADeadlyRequestIsGivenUp(t *testing.T) {
	noLeaks(t)
	var exits atomic.Int32
	script := `{"rules": [{"method": "generate", "steps": [{"exit": 70}]}]}`
	c := startFake(t, script, Options{Restart: &Restart{Wait: time.Millisecond, Retries: 2},
		OnExit: func(*ExitError) { exits.Add(1) }})
	var exit *ExitError
	if _, err := c.Generate(limited(t), prompt); !errors.As(err, &exit) || exit.Code != 70 {
		t.Errorf("got %v", err)
	}
	if err := c.Ping(limited(t)); err != nil {
		t.Error(err)
	}
	eventually(t, "three exits", func() bool { return exits.Load() == 3 })
}

func TestRestartGivesUp(t *testing.T) {
	noLeaks(t)
	options, _ := fragile(t, "")
	options.Restart = &Restart{Wait: time.Millisecond, Attempts: 3}
	options.Cmd.Args[2] = strings.Replace(options.Cmd.Args[2], "else exec", "else exit 9; exec", 1)
	c := start(t, options)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_, err := c.Generate(limited(t), prompt) // it waits for the outcome
	if err == nil {
		t.Fatal("no error")
	}
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || exit.Code != 9 || !strings.Contains(c.Err().Error(), "after 3 starts") {
		t.Errorf("got %v", c.Err())
	}
}

func TestCloseWhileItIsStartedAgain(t *testing.T) {
	noLeaks(t)
	c := startFake(t, "", Options{Restart: &Restart{Wait: time.Hour}})
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the engine is gone", func() bool { return c.Pid() == 0 })
	waiting := make(chan error, 1)
	go func() { waiting <- c.Ping(context.Background()) }()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-waiting; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestTheWaitsBetweenStarts(t *testing.T) {
	const second = time.Second
	for _, row := range []struct {
		policy   Restart
		failures int
		want     time.Duration
	}{
		{Restart{}, 0, second / 10}, {Restart{}, 1, second / 5}, {Restart{}, 6, 64 * second / 10}, {Restart{}, 7, 10 * second},
		{Restart{}, 40, 10 * second}, {Restart{}, math.MaxInt, 10 * second},
		{Restart{Wait: second, MaxWait: 2 * second}, 1, 2 * second},
		{Restart{Wait: second, MaxWait: second / 2}, 0, second / 2},
		{Restart{Wait: second, MaxWait: math.MaxInt64}, 100, math.MaxInt64},
	} {
		if got := row.policy.wait(row.failures); got != row.want {
			t.Errorf("%+v: %v after %d failures", row.policy, got, row.failures)
		}
	}
}

// A signal that somebody else sends lets the engine answer what is in flight; that it leaves is no
// more the request's fault than after a crash.
func TestRestartAfterASignal(t *testing.T) {
	noLeaks(t)
	options, _ := fragile(t, `{"silent": true}`)
	c := start(t, options)
	stream, err := c.Stream(limited(t), deadly)
	if err := errors.Join(err, c.Ping(limited(t)), syscall.Kill(c.Pid(), syscall.SIGTERM)); err != nil {
		t.Fatal(err)
	}
	if result, err := stream.Result(); err != nil || result.Text != "die" || stream.Retries() != 1 {
		t.Errorf("got %+v, %v", result, err)
	}
}

// What nobody wants any more is not sent again.
func TestAStreamThatWasClosedIsNotSentAgain(t *testing.T) {
	noLeaks(t)
	options := shellEngine("read generate; read cancel; exit 9")
	options.Restart = &Restart{Wait: time.Millisecond}
	c := start(t, options)
	stream := generate(t, c, limited(t))
	_ = stream.Close()
	var exit *ExitError
	if _, err := stream.Result(); !errors.As(err, &exit) || exit.Code != 9 || stream.Retries() != 0 {
		t.Errorf("got %v, %d retries", err, stream.Retries())
	}
}

// The host may be called while its engine is started again, and may close it there.
func TestCloseFromTheProgressOfARestart(t *testing.T) {
	noLeaks(t)
	var client atomic.Pointer[Client]
	ended := make(chan error, 1)
	c := startFake(t, "", Options{Load: &LoadParams{}, Restart: &Restart{Wait: time.Millisecond}, OnProgress: func(Progress) {
		if c := client.Swap(nil); c != nil {
			ended <- c.Close()
		}
	}})
	client.Store(c)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// What an engine says last is told, too.
func TestTheLastNotification(t *testing.T) {
	noLeaks(t)
	for range 100 {
		noted := make(chan string, 1)
		c, p := connect(t, Options{OnNotification: func(method string, _ json.RawMessage) { noted <- method }})
		p.write(`{"jsonrpc":"2.0","method":"engine/fatal","params":{"kind":"engineFault","message":"gone"}}`)
		_ = p.stream.Close()
		<-c.Done()
		select {
		case <-noted:
		case <-time.After(patience):
			t.Fatal("it was not told")
		}
	}
}

// Starts that succeed count, too, where the engine does not stay; one that has stayed begins anew.
func TestWhatCountsAsAFailure(t *testing.T) {
	noLeaks(t)
	options := shellEngine("exit 9")
	options.Restart = &Restart{Wait: time.Millisecond, Attempts: 3, Stable: time.Hour}
	c := start(t, options)
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || exit.Code != 9 || !strings.Contains(c.Err().Error(), "after 3 starts") {
		t.Errorf("got %v", c.Err())
	}
	var exits atomic.Int32
	options.Restart = &Restart{Wait: time.Millisecond, Attempts: 3, Stable: time.Nanosecond}
	options.OnExit = func(*ExitError) { exits.Add(1) }
	c = start(t, options)
	eventually(t, "more exits than attempts", func() bool { return exits.Load() > 6 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// How long a start takes, as with a large model to load, is no part of how long the engine has stayed.
func TestASlowStartIsNotStable(t *testing.T) {
	noLeaks(t)
	options := shellEngine("exit 9")
	options.Cmd.Args[2] = "sleep 0.6; " + options.Cmd.Args[2]
	options.Restart = &Restart{Wait: time.Millisecond, Attempts: 2, Stable: 500 * time.Millisecond}
	c := start(t, options)
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("it goes on for ever")
	}
	if !strings.Contains(c.Err().Error(), "after 2 starts") {
		t.Errorf("got %v", c.Err())
	}
}
