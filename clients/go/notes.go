package mlxstdio

import (
	"encoding/json"
	"sync"
)

type note struct {
	method string
	params json.RawMessage
}

// notes hands notifications to the host from a goroutine of its own: a host that takes its time with
// one must not keep the replies waiting.
type notes struct {
	report func(string, json.RawMessage)
	wake   chan struct{}

	mu      sync.Mutex
	waiting []note
}

func newNotes(report func(string, json.RawMessage), done <-chan struct{}) *notes {
	n := &notes{report: report, wake: make(chan struct{}, 1)}
	if report != nil {
		go n.run(done)
	}
	return n
}

func (n *notes) add(method string, params json.RawMessage) {
	if n.report == nil {
		return
	}
	n.mu.Lock()
	n.waiting = append(n.waiting, note{method, params})
	n.mu.Unlock()
	poke(n.wake)
}

func (n *notes) run(done <-chan struct{}) {
	for over := false; ; {
		n.mu.Lock()
		taken := n.waiting
		n.waiting = nil
		n.mu.Unlock()
		for _, one := range taken {
			n.report(one.method, one.params)
		}
		if len(taken) > 0 {
			continue
		}
		if over {
			return
		}
		select {
		case <-n.wake:
		case <-done: // the last ones, such as engine/fatal, may have come just before
			over = true
		}
	}
}
