package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"sync"
	"time"
)

// CallOption is about one request.
type CallOption func(*exchange)

// OnProgress has a function called while a request waits: for a place, for a model that is loaded,
// for its prompt to be read. It is called by the goroutine that waits for the request, so it may
// take its time; of what comes meanwhile it gets the latest of each phase.
func OnProgress(report func(Progress)) CallOption {
	return func(x *exchange) { x.report = report }
}

// OnRetry has a function called when the request is about to be sent again to an engine that was
// started anew, with the reason. See [Restart].
func OnRetry(report func(reason error)) CallOption {
	return func(x *exchange) { x.retry = report }
}

// exchange is one request of the host with all its attempts: it is sent again to a restarted engine
// as long as the host has seen nothing of it. One goroutine at a time uses it, but for leave.
type exchange struct {
	client *Client
	ctx    context.Context
	method string
	params any
	timed  bool // the engine is to know what time the context leaves
	report func(Progress)
	retry  func(error)
	deltas bool // the host asked for them

	// The params as JSON, for all attempts: the host may use its own for another request by then.
	encoded json.RawMessage

	reason error // of the latest retry

	unwanted chan struct{} // closed when left

	mu      sync.Mutex
	conn    *conn
	call    *call
	left    bool // nobody wants its text any more
	late    bool // because its time was up
	cut     bool // text of it may have been dropped
	retries int
}

// send makes an attempt.
func (x *exchange) send() error {
	conn, err := x.client.connection(x.ctx, x.conn, x.unwanted)
	if errors.Is(err, errStays) {
		err = fmt.Errorf("%w: %w", x.reason, err)
	}
	if err != nil {
		return x.explain(err)
	}
	made, err := conn.open(x.ctx, x.unwanted, x.method, x.attempt(), x.deltas || x.report != nil)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.conn = conn
	if err != nil {
		return x.explain(err)
	}
	x.call = made
	if x.client.options.Restart == nil { // it is not sent again
		x.encoded = nil
	}
	if x.left { // meanwhile
		x.drop()
	}
	return nil
}

// start makes the first attempt, and another where the engine was on its way out.
func (x *exchange) start() error {
	if x.params != nil {
		data, err := encodedParams(x.params)
		if err != nil {
			return x.explain(err)
		}
		x.encoded, x.params = data, nil
	}
	err := x.send()
	for err != nil && x.mayRetry(err) {
		err = x.send()
	}
	return err
}

// attempt is the params as they are now: the time that is left becomes less.
func (x *exchange) attempt() json.RawMessage {
	ms := x.timeoutMs()
	if !x.timed || ms == 0 {
		return x.encoded
	}
	frame := append(make([]byte, 0, len(x.encoded)+40), x.encoded[:len(x.encoded)-1]...)
	if len(frame) > 1 {
		frame = append(frame, ',')
	}
	frame = append(frame, `"timeoutMs":`...)
	return append(strconv.AppendInt(frame, ms, 10), '}')
}

// timeoutMs is what the context leaves, for the engine to know; 0 without a deadline.
func (x *exchange) timeoutMs() int64 {
	deadline, ok := x.ctx.Deadline()
	if !ok {
		return 0
	}
	left := time.Until(deadline)
	ms := left.Milliseconds()
	if left > time.Duration(ms)*time.Millisecond {
		ms++ // not added to the time left, which may be the longest that there is
	}
	return max(1, ms)
}

// next waits for a delta; at the end it gives none.
func (x *exchange) next() (*StreamDelta, error) {
	for {
		ended := x.call.hasEnded()        // looked at first: what belongs to it came before
		if !ended && x.ctx.Err() != nil { // what waits is not wanted any more
			x.leave()
			return nil, x.explain(x.ctx.Err())
		}
		delta, progress := x.call.next()
		switch {
		case progress != nil:
			if x.report != nil {
				x.report(*progress)
			}
		case delta != nil:
			if x.deltas {
				return delta, nil
			}
		case ended:
			_, err := x.call.ended()
			if err == nil {
				return nil, nil
			}
			if errors.Is(err, CodeShuttingDown) && x.client.isClosing() {
				err = fmt.Errorf("%w: %w", err, ErrClosed)
			}
			if why := x.whyLeft(); errors.Is(err, CodeCancelled) && why == context.DeadlineExceeded {
				err = why // the engine does not know why it was told to stop
			}
			if !x.mayRetry(err) {
				return nil, x.explain(err)
			}
			if err := x.start(); err != nil {
				return nil, err
			}
		default:
			select {
			case <-x.call.wake:
			case <-x.call.done:
			case <-x.ctx.Done():
			}
		}
	}
}

// wait waits for the end, and reads the result.
func (x *exchange) wait(into any) error {
	ended := false
	defer func() { // a panic in what tells of progress must not leave it running
		if !ended {
			x.leave()
		}
	}()
	for !ended {
		delta, err := x.next()
		if err != nil {
			return err
		}
		ended = delta == nil
	}
	result, _ := x.call.ended()
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(result, into); err != nil {
		return fmt.Errorf("mlxstdio: %s: the result: %w", x.method, err)
	}
	return nil
}

// mayRetry tells whether the engine went away before it had said anything for this request; if so it
// is counted, and told.
func (x *exchange) mayRetry(err error) bool {
	if !x.countRetry(err) {
		return false
	}
	x.client.log.LogAttrs(x.ctx, slog.LevelWarn, "mlxstdio: a request is sent again",
		slog.String("method", x.method), slog.Int("retry", x.retries), slog.Any("error", err))
	if x.retry != nil {
		x.retry(err)
	}
	return true
}

func (x *exchange) countRetry(err error) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	var lost *LostError
	policy := x.client.options.Restart
	// It says so itself where it still can: after a fault, or after a signal that somebody sent it.
	gone := errors.As(err, &lost) || errors.Is(err, CodeEngineFault) || errors.Is(err, CodeShuttingDown)
	if policy == nil || !gone || x.left || x.retries >= policy.retries() || x.ctx.Err() != nil {
		return false
	}
	if x.call != nil && x.call.hasSpoken() || x.client.hasEnded() {
		return false
	}
	if x.method == MethodShutdown || errors.Is(err, CodeShuttingDown) && x.conn.shut.Load() {
		return false // the host wanted it
	}
	x.retries++
	x.reason = err
	return true
}

// leave cancels the request, if it has not ended, and drops what still comes before its reply.
func (x *exchange) leave() {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.left {
		return
	}
	x.left, x.late = true, errors.Is(x.ctx.Err(), context.DeadlineExceeded)
	close(x.unwanted)
	if x.call != nil {
		x.drop()
	}
}

func (x *exchange) wasCut() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.cut
}

// whyLeft is in Go's terms.
func (x *exchange) whyLeft() error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.late {
		return context.DeadlineExceeded
	}
	return context.Canceled
}

func (x *exchange) drop() {
	if !x.call.hasEnded() {
		x.conn.cancel(x.call.id)
		x.call.ignore()
		x.cut = true
	}
}

func (x *exchange) explain(err error) error { return explain(x.method, err) }

// explain says which request an error is about.
func explain(method string, err error) error {
	var told *Error
	var lost *LostError
	if errors.As(err, &told) || errors.As(err, &lost) {
		return err
	}
	var over *endedError
	if errors.As(err, &over) {
		return &LostError{method, false, over.reason}
	}
	return fmt.Errorf("mlxstdio: %s: %w", method, err)
}
