package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
)

var errStays = errors.New("the engine refuses requests, but has not left")

// Client speaks with one engine, or with its successors. All methods may be called from any
// goroutine.
type Client struct {
	options Options
	log     *slog.Logger
	notes   *notes
	done    chan struct{} // closed when there will be no engine any more
	closing chan struct{} // closed when Close was called

	mu      sync.Mutex
	conn    *conn         // nil while the engine is started again
	changed chan struct{} // closed, and made anew, when conn has changed
	process *process      // nil on a transport of the host's
	server  InitializeResult
	err     error
}

// NewClient speaks over any byte stream, such as one end of a [net.Pipe] in a test; of the options
// it uses Logger, OnNotification, Name, Version and Grace. When the stream ends, so does the client.
//
// The stream's Close has to end a Read and a Write that are under way. Where it does not, [Client.Close]
// returns a second later nevertheless, and leaves their goroutines behind. A stream with a method
// CloseWrite is closed by it first.
func NewClient(stream io.ReadWriteCloser, options Options) *Client {
	options.Restart = nil // there is nothing to start
	c := newClient(options)
	c.conn = newConn(stream, c.log, c.notes.add)
	conn := c.conn
	go func() {
		<-conn.readDone
		c.end(fmt.Errorf("the stream has ended: %w", conn.whyEnded()))
		conn.hangUp()
		close(c.done)
	}()
	return c
}

func newClient(options Options) *Client {
	c := &Client{options: options.copied(), log: options.log(), done: make(chan struct{}),
		closing: make(chan struct{}), changed: make(chan struct{})}
	c.notes = newNotes(options.OnNotification, c.log)
	return c
}

// connection is the one to send on: not that one, which is on its way out. It waits while the engine
// is started again, until nobody wants it any more.
func (c *Client) connection(ctx context.Context, not *conn, unwanted <-chan struct{}) (*conn, error) {
	for {
		c.mu.Lock()
		conn, err, changed := c.conn, c.err, c.changed
		c.mu.Unlock()
		switch {
		case c.isClosing() || err == ErrClosed:
			return nil, ErrClosed
		case err != nil:
			return nil, &endedError{err}
		case ctx.Err() != nil: // nothing is sent for a context that has ended
			return nil, ctx.Err()
		case conn != nil && conn != not:
			return conn, nil
		}
		var stays <-chan time.Time
		if conn != nil {
			stays = time.After(c.departure())
		}
		select {
		case <-changed:
		case <-stays:
			return nil, errStays
		case <-c.closing:
		case <-ctx.Done():
		case <-unwanted:
			return nil, context.Canceled
		}
	}
}

// departure is more than an engine that is on its way out is given by its supervisor.
func (c *Client) departure() time.Duration {
	return 3*leaveGrace + c.options.termGrace() + 2*readGrace
}

// use puts a connection in the place of another.
func (c *Client) use(conn *conn, process *process, server InitializeResult) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conn, c.process, c.server = conn, process, server
	c.announce()
}

// end is for good: requests in flight and later ones get the reason.
func (c *Client) end(reason error) {
	if c.isClosing() {
		reason = ErrClosed
	}
	c.mu.Lock()
	conn := c.conn
	c.err = reason
	c.announce()
	c.mu.Unlock()
	if conn != nil {
		conn.fail(reason)
	}
}

func (c *Client) announce() {
	close(c.changed)
	c.changed = make(chan struct{})
}

func (c *Client) isClosing() bool { return isClosed(c.closing) }

// hasEnded tells whether no request will be answered any more.
func (c *Client) hasEnded() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err != nil || c.isClosing()
}

// Server is what the engine said in the handshake; zero before one.
func (c *Client) Server() InitializeResult {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.server
}

// Done is closed when the engine is gone and will not be started again: after Close, after a
// `shutdown` and `exit` that the host has sent by itself, or because it has left. That is a little later
// than the first request that fails of it; and between the call of Close and Done, requests get
// [ErrClosed] at once, so what makes one after the other should stop at that.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err tells why; nil before that, and where the host wanted it. An [ExitError], [ErrGivenUp] with the
// latest reason, or what became of the transport.
func (c *Client) Err() error {
	if !isClosed(c.done) {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == ErrClosed {
		return nil
	}
	return c.err
}

// introduce does the handshake on a connection.
func (c *Client) introduce(ctx context.Context, conn *conn) (*InitializeResult, error) {
	params := &InitializeParams{ProtocolVersion: ProtocolVersion}
	if c.options.Name != "" {
		params.ClientInfo = map[string]any{"name": c.options.Name, "version": c.options.Version}
	}
	data, err := encodedParams(params)
	if err != nil {
		return nil, err
	}
	made, err := conn.open(ctx, nil, MethodInitialize, data, false)
	if err != nil {
		return nil, err
	}
	select {
	case <-made.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	answer, err := made.ended()
	if err != nil {
		return nil, err
	}
	result := &InitializeResult{}
	if err := json.Unmarshal(answer, result); err != nil {
		return nil, fmt.Errorf("the handshake: %w", err)
	}
	if result.ProtocolVersion != ProtocolVersion {
		return nil, fmt.Errorf("%w: the engine's is %d, the client's %d",
			ErrProtocolVersion, result.ProtocolVersion, ProtocolVersion)
	}
	conn.limit.Store(result.Limits.MaxMessageBytes)
	c.mu.Lock()
	c.server = *result
	c.mu.Unlock()
	return result, nil
}

// Pid is the process id of the engine; 0 while there is none, and on a transport of the host's. An
// engine that hangs can be killed by it; with [Restart], another one follows.
func (c *Client) Pid() int {
	c.mu.Lock()
	process := c.process
	c.mu.Unlock()
	if process == nil {
		return 0
	}
	return process.pid()
}
