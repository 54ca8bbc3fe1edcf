package mlxstdio

import (
	"context"
	"io"
	"sync"
)

// Requests wait where so many bytes are unwritten: the engine stops reading for a while when
// thousands of its own messages wait (protocol.md, 10.3).
const outboxBytes = 1 << 20

// outbox holds frames for the one goroutine that writes them, so that no caller ever waits for a
// full pipe longer than its context allows, and a cancel never waits at all.
type outbox struct {
	mu     sync.Mutex
	frames [][]byte
	size   int
	closed error         // why nothing is taken any more
	wake   chan struct{} // something to write, or the end
	room   chan struct{} // closed, and made anew, when what was there has been taken
}

func newOutbox() *outbox {
	return &outbox{wake: make(chan struct{}, 1), room: make(chan struct{})}
}

// put queues a frame.
func (o *outbox) put(ctx context.Context, frame []byte) error {
	for {
		o.mu.Lock()
		if o.closed != nil {
			defer o.mu.Unlock()
			return o.closed
		}
		if o.size == 0 || o.size+len(frame) <= outboxBytes {
			o.add(frame)
			o.mu.Unlock()
			return nil
		}
		room := o.room
		o.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// putNow queues a frame that must not wait; after the end it is dropped.
func (o *outbox) putNow(frame []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.add(frame)
	}
}

func (o *outbox) add(frame []byte) {
	o.frames = append(o.frames, frame)
	o.size += len(frame)
	poke(o.wake)
}

// close takes no more; what is there is still written.
func (o *outbox) close(reason error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed == nil {
		o.closed = reason
		o.freshRoom()
		poke(o.wake)
	}
}

func (o *outbox) freshRoom() {
	close(o.room)
	o.room = make(chan struct{})
}

// write writes until the end, or until it fails.
func (o *outbox) write(to io.Writer) error {
	var joined []byte
	for range o.wake {
		o.mu.Lock()
		frames, over := o.frames, o.closed != nil
		o.frames, o.size = nil, 0
		o.freshRoom()
		o.mu.Unlock()
		data := joined[:0]
		if len(frames) == 1 {
			data = frames[0]
		} else {
			for _, frame := range frames {
				data = append(data, frame...)
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
