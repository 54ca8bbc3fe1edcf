package mlxstdio

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// How long replies may still come after the engine has stopped reading.
const lastWords = 2 * time.Second

// conn is one connection: the requests in flight on it, a goroutine that reads and one that writes.
type conn struct {
	stream      io.ReadWriteCloser
	closeStream func() error // does so once, whoever calls it
	out         *outbox
	log         *slog.Logger
	note        func(method string, params json.RawMessage)

	// Counts what came; a handshake that sees it move is patient.
	activity atomic.Int64

	// The host has told the engine to leave, by a `shutdown` or an `exit` of its own.
	shut atomic.Bool

	// Bytes of a message that the engine accepts; 0 while that is not known.
	limit atomic.Int64

	// Closed when nothing more is read; then readError says why (nil at the end of the stream).
	readDone  chan struct{}
	readError error
	readOnce  sync.Once

	mu      sync.Mutex
	lastID  int64
	pending map[int64]*call
	lost    error // why nothing can come any more
	deaf    error // why it had to be closed
	fatal   *Fatal
	doomed  chan struct{} // closed when the engine has said that it leaves
}

func newConn(stream io.ReadWriteCloser, log *slog.Logger, note func(string, json.RawMessage)) *conn {
	c := &conn{stream: stream, closeStream: sync.OnceValue(stream.Close), out: newOutbox(), log: log, note: note,
		readDone: make(chan struct{}), pending: map[int64]*call{}, doomed: make(chan struct{})}
	go c.read()
	go c.write()
	return c
}

// open sends a request. It waits for room no longer than for its context, and until it is unwanted.
func (c *conn) open(ctx context.Context, unwanted <-chan struct{}, method string, params json.RawMessage, wanted bool) (*call, error) {
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	c.mu.Unlock()
	frame, err := c.encode(&id, method, params)
	if err != nil {
		return nil, err
	}
	made := newCall(id, method, wanted)
	c.mu.Lock()
	if c.lost != nil {
		defer c.mu.Unlock()
		return nil, &LostError{method, false, c.lost}
	}
	c.pending[id] = made // before it is sent: the reply may be quick
	c.mu.Unlock()
	err = c.out.put(ctx, unwanted, frame)
	if isOnItsWayOut(ctx, unwanted, err) {
		return made, nil // it says soon why
	}
	if err != nil {
		c.mu.Lock()
		delete(c.pending, id)
		c.mu.Unlock()
		return nil, err
	}
	return made, nil
}

func (c *conn) notify(ctx context.Context, method string, params json.RawMessage) error {
	frame, err := c.encode(nil, method, params)
	if err != nil {
		return err
	}
	err = c.out.put(ctx, nil, frame)
	if isOnItsWayOut(ctx, nil, err) {
		return &LostError{method, false, err}
	}
	return err
}

// isOnItsWayOut tells whether it is the engine's end, and nobody's wish, that kept a message from being
// sent.
func isOnItsWayOut(ctx context.Context, unwanted <-chan struct{}, err error) bool {
	return err != nil && ctx.Err() == nil && !isClosed(unwanted) && !errors.Is(err, ErrClosed)
}

// encode puts params, which are JSON already, or nil for none, into a message.
func (c *conn) encode(id *int64, method string, params json.RawMessage) (made frame, err error) {
	name, err := encoded(method)
	if err != nil {
		return made, err
	}
	made.data = append(make([]byte, 0, len(params)+len(name)+80), `{"jsonrpc":"2.0"`...)
	if id != nil {
		made.data = fmt.Appendf(made.data, `,"id":%d`, *id)
	}
	made.data = append(append(made.data, `,"method":`...), name...)
	if params != nil {
		made.data = append(append(made.data, `,"params":`...), params...)
	}
	made.data = append(made.data, '}')
	// The engine could not say whose message it was that it had to skip.
	if limit := c.limit.Load(); limit > 0 && int64(len(made.data)) > limit {
		return made, fmt.Errorf("a message of %d bytes; the engine accepts %d", len(made.data), limit)
	}
	made.data = append(made.data, '\n')
	if method == MethodShutdown && id != nil || method == MethodExit && id == nil {
		made.queued = func() { c.shut.Store(true) } // before the engine can have read it
	}
	return made, nil
}

// cancel tells the engine that nobody waits for a request any more; its reply is still to come.
func (c *conn) cancel(id int64) {
	frame := fmt.Appendf(nil, `{"jsonrpc":"2.0","method":%q,"params":{"id":%d}}`+"\n",
		MethodCancelRequest, id)
	c.out.putNow(frame)
}

func (c *conn) write() {
	err := c.out.write(c.stream)
	if err == nil { // all is said
		if half, ok := c.stream.(interface{ CloseWrite() error }); ok {
			err = half.CloseWrite()
		} else {
			err = c.closeStream()
		}
	}
	if err == nil {
		return
	}
	err = fmt.Errorf("the engine does not read any more: %w", err)
	c.out.close(err)
	select { // an engine that has left says more by its end
	case <-c.readDone:
	case <-time.After(lastWords):
		c.mu.Lock()
		c.deaf = err
		c.mu.Unlock()
		c.hangUp()
	}
}

// hangUp closes the stream, and gives up reading it where that does not end it: a stream of the host's
// may be made of two, of which only one has a Close.
func (c *conn) hangUp() {
	ended := make(chan struct{})
	go func() {
		_ = c.closeStream()
		<-c.readDone
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(readGrace):
		c.endRead(errStillRead)
	}
}

var errStillRead = errors.New("it is closed, but reading it does not end")

func (c *conn) read() {
	from := newLines(c.stream)
	for {
		line, err := from.next(longestLine)
		if isClosed(c.readDone) { // given up
			return
		}
		if err != nil {
			c.endRead(err)
			return
		}
		c.activity.Add(1)
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := c.take(line); err != nil {
			c.endRead(newStreamError(line, err.Error()))
			return
		}
	}
}

// endRead is for the first that says why.
func (c *conn) endRead(reason error) {
	c.readOnce.Do(func() {
		if reason != io.EOF {
			c.readError = reason
		}
		close(c.readDone)
	})
}

// whyEnded tells why nothing more comes; only after readDone. That it could not be written to is why it
// was closed, and so why it could not be read.
func (c *conn) whyEnded() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.deaf != nil:
		return c.deaf
	case c.readError != nil:
		return c.readError
	}
	return io.EOF
}

// fail ends what is in flight; nothing can be opened any more.
func (c *conn) fail(reason error) {
	c.out.close(reason)
	c.mu.Lock()
	c.lost = reason
	left := c.pending
	c.pending = map[int64]*call{}
	c.mu.Unlock()
	for _, one := range left {
		one.finish(nil, &LostError{one.method, one.hasSpoken(), reason})
	}
}

// inFlight counts the requests that wait for their reply, also those that nobody waits for.
func (c *conn) inFlight() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pending)
}
