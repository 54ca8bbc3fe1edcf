package mlxstdio

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// How long a stream is read after its engine has left: another process may hold a copy of its pipes.
const readGrace = time.Second

// process is one engine: its handle, its three pipes, and what is known of its end.
type process struct {
	cmd            *exec.Cmd
	stdin          *os.File
	stdout, stderr *os.File
	log            *stderrLog
	left           chan struct{} // it has exited
	gone           chan struct{} // it is reaped, and nothing more of it is read

	mu      sync.Mutex
	reaped  bool
	status  syscall.WaitStatus
	unknown error // why there is no status
}

// spawn starts an engine in a process group of its own, so that a Ctrl-C in the host's terminal is
// the host's to handle, and so that whatever the engine was wrapped in can be ended with it.
func spawn(options Options, log *slog.Logger) (*process, error) {
	if err := supported(); err != nil {
		return nil, err
	}
	cmd, err := command(options)
	if err != nil {
		return nil, err
	}
	if cmd.Dir != "" { // what tells that the program is missing would be the same
		if _, err := os.Stat(cmd.Dir); err != nil {
			return nil, fmt.Errorf("its working directory: %w", err)
		}
	}
	var ours, theirs [3]*os.File
	for at := range ours {
		reading, writing, err := os.Pipe()
		if err != nil {
			closeAll(ours[:], theirs[:])
			return nil, fmt.Errorf("its pipes: %w", err)
		}
		ours[at], theirs[at] = reading, writing
		if at == 0 {
			ours[at], theirs[at] = writing, reading
		}
	}
	// Files, not readers and writers: then Wait waits for the process and for nothing else.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	ownGroup(cmd)
	err = cmd.Start()
	closeAll(theirs[:])
	if err != nil {
		closeAll(ours[:])
		return nil, fmt.Errorf("the engine cannot be started: %w", missing(err))
	}
	p := &process{cmd: cmd, stdin: ours[0], stdout: ours[1], stderr: ours[2],
		left: make(chan struct{}), gone: make(chan struct{})}
	p.log = newStderrLog(log.With("pid", cmd.Process.Pid))
	go p.log.drain(p.stderr)
	return p, nil
}

// command makes one: a Cmd is for one start.
func command(options Options) (*exec.Cmd, error) {
	given := options.Cmd
	if given == nil {
		path := options.Command
		if path == "" {
			found, err := Find()
			if err != nil {
				return nil, err
			}
			path = found
		}
		made := exec.Command(path, options.Args...)
		made.Env, made.Dir = options.Env, options.Dir
		return made, nil
	}
	if given.Stdin != nil || given.Stdout != nil || given.Stderr != nil {
		return nil, errors.New("the command has a Stdin, Stdout or Stderr already")
	}
	return again(given), nil
}

// watch waits for the end, in the order in which nothing is lost or killed by mistake: the engine
// has exited; what is left of its group is killed, whose number cannot be anybody else's before it
// is reaped; its streams are read to their end; it is reaped. Where only reaping tells that it has
// exited, that comes first, and nothing is killed.
func (p *process) watch(readDone <-chan struct{}) {
	switch err := waitUntilExited(p.cmd.Process); {
	case err == nil:
		p.signalGroup(syscall.SIGKILL)
	case errors.Is(err, syscall.ECHILD): // its number may be anybody's
		p.mu.Lock()
		p.reaped, p.unknown = true, p.cmd.Wait()
		p.mu.Unlock()
	default:
		status, err := reap(p.cmd.Process)
		p.mu.Lock()
		p.reaped, p.status, p.unknown = true, status, err
		_ = p.cmd.Process.Release() // it forgets the number, which signalGroup must not read then
		p.mu.Unlock()
	}
	close(p.left)
	grace := time.NewTimer(readGrace)
	defer grace.Stop()
	for _, done := range []<-chan struct{}{readDone, p.log.done} {
		select {
		case <-done:
		case <-grace.C:
			_ = p.stdout.Close()
			_ = p.stderr.Close()
			<-readDone
			grace.Reset(readGrace) // a logger that does not return holds nobody up either
		}
	}
	p.mu.Lock()
	if !p.reaped {
		p.reaped, p.unknown = true, p.cmd.Wait() // the state says it better, if there is one
		if p.cmd.ProcessState != nil {
			p.status, p.unknown = p.cmd.ProcessState.Sys().(syscall.WaitStatus), nil
		}
	}
	p.mu.Unlock()
	closeAll([]*os.File{p.stdin, p.stdout, p.stderr})
	close(p.gone)
}

// pid is 0 once the number may be another's.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return 0
	}
	return p.cmd.Process.Pid
}

// signalGroup reaches the engine and what it was wrapped in, as long as they are ours.
func (p *process) signalGroup(signal syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		_ = signalGroup(p.cmd.Process, signal)
	}
}

// stop asks it to leave, and then makes it, each after a time; its input has ended already.
func (p *process) stop(grace, termGrace time.Duration) {
	for _, step := range []struct {
		grace  time.Duration
		signal syscall.Signal
	}{{grace, syscall.SIGTERM}, {termGrace, syscall.SIGKILL}} {
		select {
		case <-p.left:
			return
		case <-time.After(step.grace):
			p.log.log.Warn("mlxstdio: the engine is told to leave", "after", step.grace, "signal", step.signal)
			p.signalGroup(step.signal)
		}
	}
	<-p.left
}

// exit tells how it ended; only after gone.
func (p *process) exit(conn *conn) *ExitError {
	exit := &ExitError{Code: p.status.ExitStatus(), Stderr: p.log.tail()}
	if p.unknown != nil { // a host that reaps all children, as some do in a container
		exit.Code, exit.Cause = -1, p.unknown
		return exit
	}
	if p.status.Signaled() {
		exit.Signal = p.status.Signal()
	}
	conn.mu.Lock()
	exit.Fatal, exit.Cause = conn.fatal, conn.deaf
	conn.mu.Unlock()
	if exit.Cause == nil && !errors.Is(conn.readError, os.ErrClosed) { // closed by watch, because another process held it
		exit.Cause = conn.readError
	}
	return exit
}

func closeAll(lists ...[]*os.File) {
	for _, files := range lists {
		for _, file := range files {
			_ = file.Close() // nil too
		}
	}
}

// pipes is the two ends as one stream.
type pipes struct {
	io.Reader
	io.Writer
	process *process
}

// CloseWrite ends the engine's input.
func (p pipes) CloseWrite() error { return p.process.stdin.Close() }

// Close ends both.
func (p pipes) Close() error {
	return errors.Join(p.process.stdin.Close(), p.process.stdout.Close())
}
