package mlxstdio

import (
	"encoding/json"
	"sync"
)

// A host that is slower than the engine has so many deltas waiting; what comes then is joined to the
// last of them, as the engine itself does where its pipe is full. Text is never dropped, and only
// its own bytes take memory.
const waitingDeltas = 64

// call is one request on one connection: what has come for it and was not fetched yet.
type call struct {
	id     int64
	method string
	done   chan struct{} // closed at the terminal reply, or when none can come
	wake   chan struct{} // a delta or a progress is there

	mu       sync.Mutex
	wanted   bool // deltas and progress are kept
	deltas   []StreamDelta
	first    int // of those, how many were fetched
	tail     []byte
	spoken   bool // a delta has come
	progress []Progress
	result   json.RawMessage
	err      error
}

func newCall(id int64, method string, wanted bool) *call {
	return &call{id: id, method: method, wanted: wanted,
		done: make(chan struct{}), wake: make(chan struct{}, 1)}
}

// finish is the end; whoever calls it has taken the call off the connection's list.
func (c *call) finish(result json.RawMessage, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.result, c.err = result, err
	close(c.done)
}

// ignore drops what still comes before the end.
func (c *call) ignore() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.wanted, c.deltas, c.tail, c.progress, c.first = false, nil, nil, nil, 0
}

func (c *call) addDelta(delta StreamDelta) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spoken = true
	if !c.wanted {
		return
	}
	if at := len(c.deltas) - 1; at-c.first+1 >= waitingDeltas && c.deltas[at].Channel == delta.Channel {
		last := &c.deltas[at]
		if c.tail == nil {
			c.tail = []byte(last.Text)
		}
		c.tail = append(c.tail, delta.Text...)
		last.Tokens = append(last.Tokens, delta.Tokens...)
		last.Logprobs = append(last.Logprobs, delta.Logprobs...)
	} else {
		c.settleTail()
		if len(c.deltas) == cap(c.deltas) && c.first > 0 { // reuse what was fetched
			kept := copy(c.deltas, c.deltas[c.first:])
			clear(c.deltas[kept:])
			c.deltas, c.first = c.deltas[:kept], 0
		}
		c.deltas = append(c.deltas, delta)
	}
	poke(c.wake)
}

// settleTail writes the joined text into the delta that it belongs to.
func (c *call) settleTail() {
	if c.tail != nil {
		c.deltas[len(c.deltas)-1].Text = string(c.tail)
		c.tail = nil
	}
}

// addProgress keeps the latest of each phase: it tells what the ones before it told.
func (c *call) addProgress(progress Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.wanted {
		return
	}
	if at := len(c.progress) - 1; at >= 0 && c.progress[at].Phase == progress.Phase {
		c.progress[at] = progress
	} else {
		c.progress = append(c.progress, progress)
	}
	poke(c.wake)
}

// next takes what came first: progress comes before the text that it is about.
func (c *call) next() (delta *StreamDelta, progress *Progress) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.progress) > 0 {
		progress = &Progress{}
		*progress = c.progress[0]
		c.progress = c.progress[1:]
		return nil, progress
	}
	if c.first == len(c.deltas) {
		return nil, nil
	}
	if c.first == len(c.deltas)-1 {
		c.settleTail()
	}
	delta = &StreamDelta{}
	*delta = c.deltas[c.first]
	c.deltas[c.first] = StreamDelta{}
	if c.first++; c.first == len(c.deltas) {
		c.deltas, c.first = c.deltas[:0], 0
	}
	return delta, nil
}

// ended gives the reply; only after done.
func (c *call) ended() (json.RawMessage, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.result, c.err
}

// hasEnded tells whether the terminal reply is there.
func (c *call) hasEnded() bool { return isClosed(c.done) }

// hasSpoken tells whether a delta has come.
func (c *call) hasSpoken() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.spoken
}
