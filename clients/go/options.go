package mlxstdio

import (
	"encoding/json"
	"log/slog"
	"os/exec"
	"time"
)

// Options say which engine [Start] spawns and how it is looked after. The zero value is good: the
// engine that [Find] finds, with pico for its model.
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
	// its log and progress included, begins the time anew. 10 seconds by default.
	HandshakeTimeout time.Duration

	// A model to load before Start returns, and again after a restart; an empty name is the
	// engine's default model.
	Load *LoadParams

	// Called while that model is loaded, also after a restart, from a goroutine of its own.
	OnProgress func(Progress)

	// Who the host is, for the engine's log.
	Name, Version string

	// Where the engine's log goes, and what the client has to say; by default nowhere. The client
	// waits for its handler, which therefore must not wait for the client.
	Logger *slog.Logger

	// Called for notifications that belong to no request: `models/changed`, `engine/fatal`, and
	// what later engines may add. In order, from one goroutine.
	OnNotification func(method string, params json.RawMessage)

	// Called each time the engine has left without being asked to, from a goroutine of its own.
	OnExit func(*ExitError)

	// Called after each attempt to start it again, with the number of attempts in a row: nil is for
	// an engine that has answered. From a goroutine of its own, so it may use the client.
	OnRestart func(attempt int, err error)

	// Starts the engine again when it has left. By default it is not.
	Restart *Restart

	// What Close gives the engine to finish what is in flight after its input has ended, and then
	// to leave after SIGTERM. 5 and 2 seconds by default.
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
	// gives up; 5 by default.
	Attempts int

	// The wait before the first restart, which doubles up to the most; 100 ms and 10 s by default.
	Wait, MaxWait time.Duration

	// After so long without an exit, all is forgotten; 30 s by default.
	Stable time.Duration
}

func (r *Restart) retries() int { return max(0, or(r.Retries, 1)) }

// wait doubles with each failure, and stays at the most however many there are.
func (r *Restart) wait(failures int) time.Duration {
	wait, most := or(r.Wait, 100*time.Millisecond), or(r.MaxWait, 10*time.Second)
	for ; failures > 0 && wait < most/2; failures-- {
		wait *= 2
	}
	if failures > 0 {
		return most
	}
	return min(wait, most)
}

func (o Options) grace() time.Duration { return or(o.Grace, 5*time.Second) }

func (o Options) termGrace() time.Duration { return or(o.TermGrace, 2*time.Second) }

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
