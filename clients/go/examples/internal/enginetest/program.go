package enginetest

import (
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

const programVariable = "MLX_STDIO_TEST_PROGRAM"

// Main is a package's TestMain: it runs the tests, or, in the process that [Run] has started, the
// program. So the program is built once, and with the race detector where the tests are.
func Main(m *testing.M, program func()) {
	if os.Getenv(programVariable) != "" {
		program()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// Program is an example as a process.
type Program struct {
	Out, Err *Output
	t        testing.TB
	cmd      *exec.Cmd
	stdin    io.WriteCloser
	over     chan struct{}
}

// Run starts the program of the package under test.
func Run(t testing.TB, arguments ...string) *Program {
	t.Helper()
	p := &Program{Out: newOutput(t), Err: newOutput(t), t: t, over: make(chan struct{})}
	p.cmd = exec.Command(os.Args[0], arguments...)
	p.cmd.Dir = Root()
	p.cmd.Env = append(os.Environ(), programVariable+"=1")
	p.cmd.Stdout, p.cmd.Stderr = p.Out, p.Err
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.over)
		_ = p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // where a test has failed
		<-p.over
		if t.Failed() {
			t.Logf("stdout: %q\nstderr: %q", p.Out.All(), p.Err.All())
		}
	})
	return p
}

// Type writes to the program's input.
func (p *Program) Type(text string) {
	p.t.Helper()
	if _, err := io.WriteString(p.stdin, text); err != nil {
		p.t.Fatal(err)
	}
}

// EndInput closes it.
func (p *Program) EndInput() { _ = p.stdin.Close() }

// Interrupt is a Ctrl-C.
func (p *Program) Interrupt() { p.Signal(os.Interrupt) }

// Signal sends one.
func (p *Program) Signal(signal os.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(signal); err != nil {
		p.t.Fatal(err)
	}
}

// Wait waits for the end, and gives the exit code.
func (p *Program) Wait() int {
	p.t.Helper()
	select {
	case <-p.over:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(Patience):
		p.t.Fatal("the program does not end")
		return 0
	}
}

// Output is what a process has written so far.
type Output struct {
	t    testing.TB
	mu   sync.Mutex
	text strings.Builder
	read int // up to there Until has given it
}

func newOutput(t testing.TB) *Output { return &Output{t: t} }

// Write is for the process's pipe.
func (o *Output) Write(data []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(data)
}

// All is everything.
func (o *Output) All() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// Until waits for a text, and gives what was written since the last one up to its end.
func (o *Output) Until(text string) (found string) {
	o.t.Helper()
	Eventually(o.t, "the output has "+text, func() bool {
		fresh := o.All()[o.read:]
		at := strings.Index(fresh, text)
		if at < 0 {
			return false
		}
		found = fresh[:at+len(text)]
		o.read += len(found)
		return true
	})
	return found
}
