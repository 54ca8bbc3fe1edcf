package mlxstdio

import (
	"encoding/json"
	"log/slog"
	"maps"
	"math"
	"os/exec"
	"slices"
	"time"
)

// Options say which engine [Start] spawns and how it is looked after. The zero value is good: the
// engine that [Find] finds, with pico for its model. What they point to is copied, so it may be changed
// after Start (but for what is nested deeper: values in Load.Meta, the fields of Cmd.SysProcAttr). A time that is zero is the default.
type Options struct {
	// The program; by default what Find finds.
	Command string

	// Its arguments: ["--model", "/models/mine", "--keep-alive", "600"]. `mlx-stdio --help` has all.
	Args []string

	// Its environment; by default the host's.
	Env []string

	// Its working directory; by default the host's.
	Dir string

	// A command made by the host, in place of the four above. Its Stdin, Stdout and Stderr have to
	// be unset. It is copied, so that it can be started again; the context of exec.CommandContext,
	// its Cancel and its WaitDelay are passed over.
	Cmd *exec.Cmd

	// How long the engine may be silent before it has answered the handshake. Whatever it writes,
	// its log included, begins the time anew. 10 seconds by default; a negative one is for ever.
	HandshakeTimeout time.Duration

	// A model to load before Start returns, and again after a restart; an empty name is the
	// engine's default model. How long that may take, the context of Start says, and TimeoutMs,
	// which alone does so after a restart.
	Load *LoadParams

	// Called while that model is loaded, also after a restart, from a goroutine of its own. It may close
	// the client, and must not wait for its requests, which wait for the load.
	OnProgress func(Progress)

	// Who the host is, for the engine's log.
	Name, Version string

	// Where the engine's log goes, and what the client has to say; by default nowhere. The client
	// waits for its handler, which therefore must not wait for the client.
	Logger *slog.Logger

	// Called for notifications that belong to no request: `models/changed`, `engine/fatal`, and
	// what later engines may add. While it takes its time, up to 1 MiB of later ones wait; beyond that,
	// older ones are dropped, which the log tells.
	//
	// OnNotification, OnExit and OnRestart are called one at a time, in the order in which things
	// happened; once Close has returned, none begins but one that was due at that moment. They may use
	// the client, and close it; one that waits for the next waits for ever.
	OnNotification func(method string, params json.RawMessage)

	// Called each time the engine has left without being asked to.
	OnExit func(*ExitError)

	// Called after each attempt to start it again, with the number of attempts in a row: nil is for
	// an engine that has answered.
	OnRestart func(attempt int, err error)

	// Starts the engine again when it has left. By default it is not.
	Restart *Restart

	// What Close gives the engine to finish what is in flight after its input has ended, and then
	// to leave after SIGTERM. 5 and 2 seconds by default; negative ones are no time at all.
	Grace, TermGrace time.Duration
}

// Restart tells how an engine that has left is started again.
//
// Requests of which the host has seen nothing are sent again, which the log says. A stream that
// has had text gets the error. Models are resident again when a request needs them; pins are gone,
// but for that of Options.Load.
type Restart struct {
	// How often one request is sent again; 1 by default, none if negative: a request that ends the
	// engine must not end it for ever.
	Retries int

	// So many starts in a row may fail, or be followed by an exit within Stable, before the client
	// gives up; 5 by default, any number if negative.
	Attempts int

	// The wait before the first restart, which doubles up to the most; 100 ms and 10 s by default,
	// none if negative.
	Wait, MaxWait time.Duration

	// After so long without an exit, all is forgotten; 30 s by default, at once if negative.
	Stable time.Duration
}

func (r *Restart) retries() int { return max(0, or(r.Retries, 1)) }

// givesUp tells whether so many failures are enough.
func (r *Restart) givesUp(failures int) bool {
	return r.Attempts >= 0 && failures >= or(r.Attempts, 5)
}

// wait doubles with each failure, and stays at the most however many there are.
func (r *Restart) wait(failures int) time.Duration {
	wait, most := or(r.Wait, 100*time.Millisecond), or(r.MaxWait, 10*time.Second)
	if wait < 0 || most < 0 {
		return 0
	}
	for ; failures > 0 && wait < most/2; failures-- {
		wait *= 2
	}
	if failures > 0 {
		return most
	}
	return min(wait, most)
}

// copied keeps what the host does with its own from what is read at a restart.
func (o Options) copied() Options {
	o.Args, o.Env = slices.Clone(o.Args), slices.Clone(o.Env)
	o.Restart = anew(o.Restart)
	if o.Load = anew(o.Load); o.Load != nil {
		o.Load.Meta = maps.Clone(o.Load.Meta)
		o.Load.Pin, o.Load.KeepAliveSeconds, o.Load.Adapter =
			anew(o.Load.Pin), anew(o.Load.KeepAliveSeconds), anew(o.Load.Adapter)
	}
	if o.Cmd != nil {
		o.Cmd = again(o.Cmd)
	}
	return o
}

// again is a command that has not been started. Of its attributes, what they point to is the host's.
func again(cmd *exec.Cmd) *exec.Cmd {
	return &exec.Cmd{Path: cmd.Path, Args: slices.Clone(cmd.Args), Env: slices.Clone(cmd.Env), Dir: cmd.Dir,
		Stdin: cmd.Stdin, Stdout: cmd.Stdout, Stderr: cmd.Stderr, ExtraFiles: slices.Clone(cmd.ExtraFiles),
		SysProcAttr: anew(cmd.SysProcAttr), Err: cmd.Err}
}

// anew points to a copy; nil stays nil.
func anew[T any](given *T) *T {
	if given == nil {
		return nil
	}
	return Ptr(*given)
}

func (o Options) handshakeTimeout() time.Duration {
	if o.HandshakeTimeout < 0 {
		return math.MaxInt64
	}
	return or(o.HandshakeTimeout, 10*time.Second)
}

func (o Options) grace() time.Duration { return max(0, or(o.Grace, 5*time.Second)) }

func (o Options) termGrace() time.Duration { return max(0, or(o.TermGrace, 2*time.Second)) }

func (o Options) log() *slog.Logger {
	if o.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return o.Logger
}

// or is the value, or the default in place of zero.
func or[T comparable](value, standard T) T {
	var zero T
	if value == zero {
		return standard
	}
	return value
}
