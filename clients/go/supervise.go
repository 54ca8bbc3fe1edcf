package mlxstdio

import (
	"context"
	"fmt"
	"time"
)

// supervise stands by an engine until it has gone, and by its successors.
func (c *Client) supervise(e *engine) {
	defer close(c.done)
	failures := 0
	for e != nil {
		exit := c.await(e)
		if c.isClosing() || e.conn.shut.Load() && exit.inGoodOrder() {
			c.end(ErrClosed)
			return
		}
		c.log.Error("mlxstdio: the engine has left", "error", exit)
		if c.options.Restart == nil {
			c.end(exit)
		} else {
			c.use(nil, nil, e.server) // before the requests fail: who asks again waits
			e.conn.fail(exit)
		}
		if c.options.OnExit != nil {
			c.notes.tell(func() { c.options.OnExit(exit) })
		}
		if c.options.Restart == nil {
			return
		}
		if time.Since(e.since) > or(c.options.Restart.Stable, 30*time.Second) {
			failures = 0
		}
		e = c.restart(exit, &failures)
	}
}

// await waits for the end of an engine, and helps where it does not come by itself.
func (c *Client) await(e *engine) *ExitError {
	select {
	case <-e.process.gone:
		return e.process.exit(e.conn)
	case <-e.conn.readDone:
	case <-e.conn.doomed: // a fault may well keep it from leaving
		select {
		case <-e.conn.readDone:
		case <-time.After(leaveGrace):
		}
	}
	if c.isClosing() { // Close sees to it
		<-e.process.gone
		return e.process.exit(e.conn)
	}
	return c.seeOff(e)
}

// seeOff ends an engine of which nothing more can be had.
func (c *Client) seeOff(e *engine) *ExitError {
	e.conn.out.close(errEnded)
	e.process.stop(e.leaveGrace(), c.options.termGrace())
	<-e.process.gone
	return e.process.exit(e.conn)
}

// restart starts engines until one answers; nil where it gives up, or the client is closed.
func (c *Client) restart(exit *ExitError, failures *int) *engine {
	policy := c.options.Restart
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-c.closing:
			cancel()
		case <-stop:
		}
	}()
	var reason error = exit
	for !policy.givesUp(*failures) {
		wait := policy.wait(*failures)
		*failures++
		select {
		case <-time.After(wait):
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			c.end(ErrClosed)
			return nil
		}
		c.log.Warn("mlxstdio: the engine is started again", "attempt", *failures, "waited", wait)
		e, err := c.startEngine(ctx)
		if err == nil {
			c.use(e.conn, e.process, e.server)
			if c.isClosing() { // Close may have looked before there was something to close
				e.conn.out.close(ErrClosed)
				e.process.stop(0, c.options.termGrace())
			}
			c.tellRestart(*failures, nil)
			return e
		}
		c.tellRestart(*failures, err)
		reason = err
		c.log.Error("mlxstdio: the engine does not start", "error", err)
	}
	c.end(fmt.Errorf("%w after %d starts: %w", ErrGivenUp, *failures, reason))
	return nil
}

func (c *Client) tellRestart(attempt int, err error) {
	if c.options.OnRestart != nil && !c.isClosing() {
		c.notes.tell(func() { c.options.OnRestart(attempt, err) })
	}
}
