package mlxstdio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Engines that go wrong in ways of which the fake one is not capable: a shell answers the handshake,
// and does what a script says.
func shellEngine(script string) Options {
	return Options{Cmd: shell(`read request; echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}'; ` + script),
		Grace: 50 * time.Millisecond, TermGrace: patience}
}

func TestAnEngineThatClosesOneOfItsPipes(t *testing.T) {
	for name, row := range map[string]struct{ script, want string }{
		"stdout": {"exec >&-; exec sleep 1000", "a signal"},
		"stdin":  {"exec <&-; exec sleep 1000", "does not read any more"},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			c := start(t, shellEngine(row.script))
			eventually(t, "a request ends", func() bool {
				ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
				defer cancel()
				return !errors.Is(c.Ping(ctx), context.DeadlineExceeded)
			})
			<-c.Done()
			var exit *ExitError
			if !errors.As(c.Err(), &exit) || exit.Signal != syscall.SIGTERM || !strings.Contains(exit.Error(), row.want) {
				t.Errorf("got %v", c.Err())
			}
		})
	}
}

// One that reads nothing more, with a pipe that is full, does not hold up Close.
func TestCloseOfAnEngineThatDoesNotRead(t *testing.T) {
	noLeaks(t)
	c := start(t, shellEngine("exec sleep 1000"))
	ended := make(chan error, 1)
	go func() {
		_, err := c.Generate(limited(t), &GenerateParams{Prompt: Prompt(strings.Repeat("x", 4*outboxBytes))})
		ended <- err
	}()
	eventually(t, "it is sent", func() bool { return c.conn.inFlight() == 1 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

// A progress bar on stdout, or anything else that is no message and never ends, is not collected.
func TestAFloodWithoutALine(t *testing.T) {
	noLeaks(t)
	c := start(t, shellEngine(`tr '\0' x </dev/zero`))
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || exit.Cause == nil || !strings.Contains(exit.Cause.Error(), "does not end") {
		t.Errorf("got %v", c.Err())
	}
}

func TestAFloodOnStderr(t *testing.T) {
	noLeaks(t)
	c := start(t, shellEngine(`head -c 3000000 /dev/zero | tr '\0' x >&2; echo last words >&2; exit 4`))
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || !strings.HasSuffix(exit.Stderr, "last words\n") || len(exit.Stderr) > tailBytes {
		t.Errorf("got %d bytes", len(c.Err().Error()))
	}
	if kept := len(c.process.log.last); kept > 2*tailBytes+lineBytes {
		t.Errorf("%d bytes are kept", kept)
	}
}

// The end of stderr is the most useful part of it, and may still be on its way when the engine has gone.
func TestTheLastWordsAreWaitedFor(t *testing.T) {
	noLeaks(t)
	options := shellEngine(`for at in 1 2 3 4 5 6 7 8 9; do echo line $at >&2; sleep 0.01; done; echo last words >&2; exit 4`)
	options.Logger = slog.New(handler{handle: func(slog.Record) { time.Sleep(30 * time.Millisecond) }})
	c := start(t, options)
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || !strings.HasSuffix(exit.Stderr, "last words\n") {
		t.Errorf("got %v", c.Err())
	}
}

// What an engine leaves behind in its group is ended with it.
func TestAnExitEndsTheGroup(t *testing.T) {
	noLeaks(t)
	file := filepath.Join(t.TempDir(), "child")
	c := start(t, shellEngine(fmt.Sprintf(`sleep 1000 & echo $! >%q; exit 3`, file)))
	<-c.Done()
	text, err := os.ReadFile(file)
	var child int
	if _, scan := fmt.Sscan(string(text), &child); scan != nil {
		t.Fatal(err, scan)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) })
	eventually(t, "its child is gone", func() bool { return !alive(child) })
}

// An engine that has said that it fails, and then cannot even leave.
func TestAFaultThatDoesNotEnd(t *testing.T) {
	noLeaks(t)
	c := start(t, shellEngine(`echo '{"jsonrpc":"2.0","method":"engine/fatal","params":{"kind":"engineFault","message":"gone"}}'; exec sleep 1000`))
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || exit.Fatal == nil || exit.Signal != syscall.SIGTERM {
		t.Errorf("got %v", c.Err())
	}
}

// An engine takes a second signal for impatience.
func TestTwoClosesSendOneSignal(t *testing.T) {
	file := filepath.Join(t.TempDir(), "signals")
	options := shellEngine(fmt.Sprintf(`trap 'echo TERM >>%q' TERM; until [ -s %[1]q ]; do sleep 0.01; done; `+
		`for at in 1 2 3 4 5 6 7 8 9; do sleep 0.05; done`, file))
	c := start(t, options)
	ended := make(chan error)
	for range 5 {
		go func() { ended <- c.Close() }()
		time.Sleep(20 * time.Millisecond) // what comes together would be one to the engine, too
	}
	for range 5 {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "TERM\n" {
		t.Errorf("%q, %v", text, err)
	}
}

// Some hosts reap whatever ends, as the first process of a container has to.
func TestAHostThatReapsTheEngineItself(t *testing.T) {
	noLeaks(t)
	c := start(t, shellEngine("exec sleep 1000"))
	pid := c.Pid()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for { // the runtime's own signals interrupt it
		if _, err := syscall.Wait4(pid, nil, 0, nil); !errors.Is(err, syscall.EINTR) {
			break
		}
	}
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) {
		t.Errorf("got %v", c.Err())
	}
	if pid := c.Pid(); pid != 0 {
		t.Errorf("process %d", pid)
	}
}

// A process that is stopped, by a debugger or by hand, is not one that has left.
func TestAnEngineThatIsStopped(t *testing.T) {
	c := startFake(t, "", Options{})
	for _, signal := range []syscall.Signal{syscall.SIGSTOP, syscall.SIGCONT} {
		if err := syscall.Kill(c.Pid(), signal); err != nil {
			t.Fatal(err)
		}
		time.Sleep(50 * time.Millisecond) // nothing is to come of it
	}
	if err := c.Ping(limited(t)); err != nil {
		t.Error(err)
	}
	for code, want := range map[int32]bool{1: false, 2: false, 3: false, 5: true} {
		if stopped(code) != want {
			t.Errorf("code %d", code)
		}
	}
}

// handler is a host's log that does something with what it gets.
type handler struct {
	slog.Handler
	handle func(slog.Record)
}

func (h handler) Handle(_ context.Context, record slog.Record) error {
	h.handle(record)
	return nil
}

func (h handler) WithAttrs([]slog.Attr) slog.Handler       { return h }
func (h handler) Enabled(context.Context, slog.Level) bool { return true }

func TestCloseFromTheLog(t *testing.T) {
	noLeaks(t)
	var client atomic.Pointer[Client]
	ended := make(chan error, 1)
	options := shellEngine(`read more; echo enough >&2; exec sleep 1000`)
	options.Logger = slog.New(handler{handle: func(record slog.Record) {
		if c := client.Load(); c != nil && record.Message == "stderr" {
			ended <- c.Close()
		}
	}})
	c := start(t, options)
	client.Store(c)
	if err := c.Notify(limited(t), "go", nil); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
