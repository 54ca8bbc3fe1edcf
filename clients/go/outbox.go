package mlxstdio

import (
	"context"
	"io"
	"slices"
	"sync"
)

// Requests wait where so many bytes are unwritten: the engine stops reading for a while when
// thousands of its own messages wait (protocol.md, 10.3).
const outboxBytes = 1 << 20

// outbox holds frames for the one goroutine that writes them, so that no caller ever waits for a
// full pipe longer than its context allows, and a cancel never waits at all.
type outbox struct {
	mu     sync.Mutex
	frames []frame
	size   int
	queue  []*waiter     // those for which there is no room, in the order in which they came
	closed error         // why nothing is taken any more
	wake   chan struct{} // something to write, or the end
}

// frame is a message as it is written.
type frame struct {
	data   []byte
	queued func() // called once nothing but the end of the stream can keep it from being written; or nil
}

// waiter is a frame that waits for room.
type waiter struct {
	frame frame
	turn  chan struct{} // closed when it was queued, or never will be
	err   error
}

func newOutbox() *outbox { return &outbox{wake: make(chan struct{}, 1)} }

// put queues a frame. It waits for room behind those that came before, also where it would fit by
// itself: a large one would wait for ever if small ones could pass it. It gives up at the end of the
// context, and once nobody wants it any more.
func (o *outbox) put(ctx context.Context, unwanted <-chan struct{}, frame frame) error {
	one := &waiter{frame: frame, turn: make(chan struct{})}
	o.mu.Lock()
	if o.closed != nil {
		defer o.mu.Unlock()
		return o.closed
	}
	o.queue = append(o.queue, one)
	o.admit()
	o.mu.Unlock()
	var reason error
	select {
	case <-one.turn:
		return one.err
	case <-ctx.Done():
		reason = ctx.Err()
	case <-unwanted:
		reason = context.Canceled
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	at := slices.Index(o.queue, one)
	if at < 0 { // its turn came meanwhile
		return one.err
	}
	o.queue = slices.Delete(o.queue, at, at+1)
	o.admit() // there may be room for those behind it
	return reason
}

// putNow queues a frame that must not wait; after the end it is dropped.
func (o *outbox) putNow(data []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.add(frame{data: data})
	}
}

// admit queues those that wait, as far as there is room; where there is nothing, there is room for any.
func (o *outbox) admit() {
	for len(o.queue) > 0 {
		one := o.queue[0]
		if o.size > 0 && o.size+len(one.frame.data) > outboxBytes {
			return
		}
		o.queue = slices.Delete(o.queue, 0, 1)
		o.add(one.frame)
		close(one.turn)
	}
}

func (o *outbox) add(frame frame) {
	o.frames = append(o.frames, frame)
	o.size += len(frame.data)
	if frame.queued != nil {
		frame.queued()
	}
	poke(o.wake)
}

// close takes no more; what is there is still written.
func (o *outbox) close(reason error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed != nil {
		return
	}
	o.closed = reason
	for _, one := range o.queue {
		one.err = reason
		close(one.turn)
	}
	o.queue = nil
	poke(o.wake)
}

// write writes until the end, or until it fails.
func (o *outbox) write(to io.Writer) error {
	var joined []byte
	for range o.wake {
		o.mu.Lock()
		frames, over := o.frames, o.closed != nil
		o.frames, o.size = nil, 0
		o.admit()
		o.mu.Unlock()
		data := joined[:0]
		if len(frames) == 1 {
			data = frames[0].data
		} else {
			for _, frame := range frames {
				data = append(data, frame.data...)
			}
			joined = data
		}
		if len(data) > 0 {
			if _, err := to.Write(data); err != nil {
				return err
			}
		}
		if cap(joined) > outboxBytes {
			joined = nil
		}
		if over {
			return nil
		}
	}
	return nil
}
