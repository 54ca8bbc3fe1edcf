package mlxstdio

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// syncBuffer is a log that several goroutines write.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(data []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(data)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

func TestAnUnexpectedExit(t *testing.T) {
	noLeaks(t)
	script := `{"rules": [{"method": "generate", "steps": [{"delta": "a"}, {"delayMs": 20, "exit": 70}]}]}`
	exits := make(chan *ExitError, 2)
	c := startFake(t, script, Options{OnExit: func(e *ExitError) { exits <- e }})
	other := make(chan error, 1)
	go func() {
		_, err := c.Embed(limited(t), &EmbedParams{Input: []string{"x"}})
		other <- err
	}()
	if err := <-other; !errors.Is(err, CodeUnsupported) {
		t.Errorf("got %v", err)
	}
	var last error
	for _, last = range generate(t, c, limited(t)).Deltas() {
	}
	var exit *ExitError
	if !errors.As(last, &exit) || exit.Code != 70 || !strings.Contains(last.Error(), "after some of its text") {
		t.Errorf("got %v", last)
	}
	<-c.Done()
	if told := <-exits; told != exit || c.Err() != exit {
		t.Errorf("told %v, %v", told, c.Err())
	}
	if err := c.Ping(limited(t)); !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
	if err := c.Close(); err != exit {
		t.Errorf("got %v", err)
	}
}

func TestAFaultIsTold(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [{"fatal": "the memory is gone"}]}]}`
	c := startFake(t, script, Options{})
	if _, err := c.Generate(limited(t), prompt); !errors.Is(err, CodeEngineFault) {
		t.Errorf("got %v", err)
	}
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || exit.Code != 70 || exit.Fatal == nil || !strings.Contains(exit.Error(), "the memory is gone") {
		t.Errorf("got %+v", c.Err())
	}
}

func TestASignalIsTold(t *testing.T) {
	c := startFake(t, "", Options{})
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-c.Done()
	var exit *ExitError
	if !errors.As(c.Err(), &exit) || exit.Signal != syscall.SIGKILL || exit.Code != -1 {
		t.Errorf("got %+v", c.Err())
	}
}

func TestCloseFinishesWhatIsInFlight(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [{"delayMs": 200, "delta": "a"}, {"finish": "stop"}]}]}`
	c := startFake(t, script, Options{Grace: patience})
	stream := generate(t, c, limited(t))
	if err := c.Ping(limited(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if result, err := stream.Result(); err != nil || result.Text != "a" {
		t.Errorf("got %+v, %v", result, err)
	}
}

// An engine that is not done after the grace is told to leave, and answers 1009.
func TestCloseTerminatesAfterItsGrace(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [{"silent": true}]}]}`
	c := startFake(t, script, Options{Grace: 50 * time.Millisecond, TermGrace: patience, Restart: &Restart{}})
	stream := generate(t, c, limited(t))
	if err := c.Ping(limited(t)); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := stream.Result(); !errors.Is(err, CodeShuttingDown) {
		t.Errorf("got %v", err)
	}
}

// One that hears nothing is killed, and so is what it was wrapped in.
func TestCloseKillsTheGroupInTheEnd(t *testing.T) {
	noLeaks(t)
	file := filepath.Join(t.TempDir(), "child")
	cmd := fakeCommand(t, "")
	script := fmt.Sprintf(`trap "" TERM; sleep 1000 & echo $! > %q; %s; while :; do sleep 1; done`, file, quoted(cmd.Args))
	wrapped := shell(script)
	wrapped.Dir = cmd.Dir
	c := start(t, Options{Cmd: wrapped, Grace: 50 * time.Millisecond, TermGrace: 50 * time.Millisecond})
	wrapper := c.Pid()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "both are gone", func() bool { return !alive(wrapper) && !alive(child) })
}

// A process that lives on with a copy of the engine's pipes does not hold up its end.
func TestAStrayWithItsPipes(t *testing.T) {
	noLeaks(t)
	cmd := fakeCommand(t, "")
	wrapped := shell(fmt.Sprintf(`setsid sleep 20 & exec %s`, quoted(cmd.Args)))
	wrapped.Dir = cmd.Dir
	c := start(t, Options{Cmd: wrapped})
	began := time.Now()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 15*time.Second {
		t.Errorf("it took %v", took)
	}
}

func TestTheLogOfTheEngine(t *testing.T) {
	var log syncBuffer
	handler := slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug})
	cmd := fakeCommand(t, "", "--log-level", "debug")
	wrapped := shell(`echo "some library: a warning" >&2; head -c 300000 /dev/zero | tr '\0' x >&2; echo >&2; exec ` + quoted(cmd.Args))
	wrapped.Dir = cmd.Dir
	c := start(t, Options{Cmd: wrapped, Logger: slog.New(handler), Name: "this test"})
	pid := c.Pid()
	if _, err := c.Generate(limited(t), prompt); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for _, part := range []string{"some library: a warning", "this test", "level=DEBUG", fmt.Sprint("pid=", pid)} {
		if !strings.Contains(log.String(), part) {
			t.Errorf("%q is not in the log", part)
		}
	}
	if lines := strings.Count(log.String(), "xxxx"); len(log.String()) > 200_000 || lines == 0 {
		t.Errorf("the log has %d bytes", len(log.String()))
	}
}
