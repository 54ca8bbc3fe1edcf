package mlxstdio

import (
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
)

// Of the notifications that wait for a host that takes its time with one, so many bytes are kept.
const notesBytes = 1 << 20

// notes calls the host's functions, those for notifications and those for what becomes of the engine,
// one at a time and in the order in which things happened. It does so from a goroutine of its own,
// which is there while there is something to tell: a host that takes its time with one must not keep
// the replies waiting, and may use the client in it, or close it.
type notes struct {
	report func(string, json.RawMessage)
	log    *slog.Logger

	mu      sync.Mutex
	waiting []note
	size    int
	telling bool // there is a goroutine
	over    bool
}

type note struct {
	tell func()
	size int // 0 for what is never dropped
}

func newNotes(report func(string, json.RawMessage), log *slog.Logger) *notes {
	return &notes{report: report, log: log}
}

// add queues a notification. Where too much waits, the older half of it is dropped, and the log says
// so: what is newer tells more of how things are.
func (n *notes) add(method string, params json.RawMessage) {
	if n.report == nil {
		return
	}
	const own = 128 // bytes that one takes beside its text
	dropped := n.queue(note{func() { n.report(method, params) }, own + len(method) + len(params)})
	if dropped > 0 {
		n.log.Warn("mlxstdio: notifications are dropped, as OnNotification takes its time", "dropped", dropped)
	}
}

// tell queues what must come, such as the end of an engine.
func (n *notes) tell(hook func()) { n.queue(note{tell: hook}) }

func (n *notes) queue(one note) (dropped int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.over {
		return 0
	}
	n.waiting = append(n.waiting, one)
	if n.size += one.size; one.size > 0 && n.size > notesBytes {
		dropped = n.drop()
	}
	if !n.telling {
		n.telling = true
		go n.run()
	}
	return dropped
}

// drop makes room, and counts what went. The newest is kept, however large it is.
func (n *notes) drop() (dropped int) {
	last := len(n.waiting) - 1
	newest := n.waiting[last]
	n.waiting = slices.DeleteFunc(n.waiting[:last], func(one note) bool {
		if one.size == 0 || n.size <= notesBytes/2 {
			return false
		}
		n.size -= one.size
		dropped++
		return true
	})
	n.waiting = append(n.waiting, newest)
	return dropped
}

func (n *notes) run() {
	for {
		n.mu.Lock()
		if len(n.waiting) == 0 {
			n.telling = false
			n.mu.Unlock()
			return
		}
		one := n.waiting[0]
		n.waiting[0] = note{}
		n.waiting = n.waiting[1:]
		n.size -= one.size
		n.mu.Unlock()
		one.tell()
	}
}

// close drops what waits: nothing begins any more.
func (n *notes) close() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.over, n.waiting, n.size = true, nil, 0
}
