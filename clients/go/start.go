package mlxstdio

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// An engine whose stream has ended is given so long to leave by itself.
const leaveGrace = 2 * time.Second

// Start spawns an engine, and returns when it has answered the handshake and loaded what
// Options.Load names. The context is for the start only, and where it ends before that, Start returns
// when the engine is gone again: at the latest after Options.TermGrace. [Client.Close] ends the engine
// later, and so does the end of the host, however it comes.
//
// The engine is in a process group of its own. A Ctrl-C in the host's terminal therefore does not reach
// it: what is to become of it then is the host's to say, by Close or by its own end.
//
// Where there is no engine to spawn, the error is [ErrNotFound]; where one does not answer,
// [ErrHandshakeTimeout], an [ExitError] or [ErrProtocolVersion]; where it cannot load the model, an
// [Error]; and on systems other than Linux and macOS [errors.ErrUnsupported].
func Start(ctx context.Context, options Options) (*Client, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("mlxstdio: start: %w", err)
	}
	c := newClient(options)
	engine, err := c.startEngine(ctx)
	if err != nil {
		c.notes.close()
		close(c.done)
		return nil, fmt.Errorf("mlxstdio: start: %w", err)
	}
	c.use(engine.conn, engine.process, engine.server)
	go c.supervise(engine)
	return c, nil
}

// engine is a process that has answered.
type engine struct {
	process *process
	conn    *conn
	server  InitializeResult
	since   time.Time // when it had answered: a load may take longer than Restart.Stable
}

// leaveGrace is for an engine whose stream has ended: none where it was no protocol.
func (e *engine) leaveGrace() time.Duration {
	var broken *streamError
	if isClosed(e.conn.readDone) && errors.As(e.conn.readError, &broken) {
		return 0
	}
	return leaveGrace
}

func (c *Client) startEngine(ctx context.Context) (*engine, error) {
	process, err := spawn(c.options, c.log)
	if err != nil {
		return nil, err
	}
	stream := pipes{process.stdout, process.stdin, process}
	e := &engine{process: process, conn: newConn(stream, c.log, c.notes.add)}
	go process.watch(e.conn.readDone)
	if err := c.handshake(ctx, e); err != nil {
		e.conn.out.close(ErrClosed)
		process.stop(0, c.options.termGrace())
		<-process.gone
		e.conn.fail(err)
		return nil, err
	}
	e.since = time.Now()
	return e, nil
}

// ErrHandshakeTimeout is for an engine that was silent for all of Options.HandshakeTimeout.
var ErrHandshakeTimeout = errors.New("the engine has not answered the handshake in time")

var errEnded = errors.New("the engine's stream has ended")

// handshake introduces the client, for as long as the engine gives signs of life, and loads the first
// model, for as long as that takes: the host's context, or the TimeoutMs of its Options.Load, says how
// long that may be.
func (c *Client) handshake(ctx context.Context, e *engine) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	answered := make(chan struct{})
	go c.watchStart(ctx, e, answered, cancel)
	server, err := c.introduce(ctx, e.conn)
	if err == nil && c.options.Load != nil {
		close(answered)
		err = c.loadFirst(ctx, e.conn, server.DefaultModel)
	}
	if err == nil {
		e.server = *server
		return nil
	}
	if ctx.Err() == nil {
		return err
	}
	cause := context.Cause(ctx)
	var exit *ExitError
	last := lastLine(e.process.log.tail())
	if errors.As(cause, &exit) || errors.Is(cause, ErrClosed) || last == "" {
		return cause
	}
	return fmt.Errorf("%w; its standard error ends with %q", cause, last)
}

// watchStart ends a start of which nothing can come any more. Once the engine has answered, silence
// tells nothing: a load may be long.
func (c *Client) watchStart(ctx context.Context, e *engine, answered <-chan struct{}, cancel context.CancelCauseFunc) {
	const looks = 20 // at whether there was anything, in the time that it may be silent
	patience := c.options.handshakeTimeout()
	ticker := time.NewTicker(max(patience/looks, time.Millisecond))
	defer ticker.Stop()
	seen, since := int64(0), time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.closing:
			cancel(ErrClosed)
			return
		case <-e.conn.readDone: // it has left, or wrote what is no message
			cancel(c.seeOff(e))
			return
		case <-answered:
			answered = nil
			ticker.Stop()
			continue
		case <-ticker.C:
		}
		if now := e.conn.activity.Load() + e.process.log.activity.Load(); now != seen {
			seen, since = now, time.Now()
		} else if time.Since(since) > patience {
			cancel(ErrHandshakeTimeout)
			return
		}
	}
}

func (c *Client) loadFirst(ctx context.Context, conn *conn, defaultModel string) error {
	params := *c.options.Load
	params.Model = or(params.Model, defaultModel)
	data, err := encodedParams(&params)
	if err != nil {
		return err
	}
	made, err := conn.open(ctx, nil, MethodModelsLoad, data, c.options.OnProgress != nil)
	if err != nil {
		return err
	}
	told := made.done
	if c.options.OnProgress != nil {
		told = c.tellProgress(ctx, made)
	}
	select {
	case <-told:
	case <-ctx.Done():
	}
	if !made.hasEnded() {
		return ctx.Err()
	}
	_, err = made.ended()
	return err
}

// tellProgress does so until the end of a call, from a goroutine of its own: the host may be in
// Close meanwhile, or call it.
func (c *Client) tellProgress(ctx context.Context, made *call) (told chan struct{}) {
	told = make(chan struct{})
	go func() {
		defer close(told)
		for ctx.Err() == nil {
			ended := made.hasEnded()
			_, progress := made.next()
			switch {
			case progress != nil:
				c.options.OnProgress(*progress)
			case ended:
				return
			default:
				select {
				case <-made.wake:
				case <-made.done:
				case <-ctx.Done():
				}
			}
		}
	}()
	return told
}

// Close ends the engine: its input ends, so that it finishes and answers what is in flight; after
// Options.Grace it gets SIGTERM, and after Options.TermGrace SIGKILL. A stream of [NewClient] is closed
// after Options.Grace if it has a CloseWrite, else as soon as all is written. It returns when the engine is gone, with the error of [Client.Err]: why it had
// gone before, if it had. It may be called again, also by what
// Options.OnExit and its like call; of these, none is called any more after it has returned.
func (c *Client) Close() error {
	defer c.notes.close()
	c.mu.Lock()
	if c.isClosing() { // one Close is enough: two signals would be more than one
		c.mu.Unlock()
		<-c.done
		return c.Err()
	}
	close(c.closing)
	conn, process := c.conn, c.process
	c.mu.Unlock()
	if conn != nil {
		conn.out.close(ErrClosed)
	}
	if process != nil {
		process.stop(c.options.grace(), c.options.termGrace())
	}
	if process == nil && conn != nil {
		select { // the other end may answer what is in flight, where only the writing half was closed
		case <-c.done:
		case <-time.After(c.options.grace()):
			conn.hangUp()
		}
	}
	<-c.done
	return c.Err()
}
