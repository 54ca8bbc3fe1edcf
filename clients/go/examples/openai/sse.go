package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// events writes server-sent events. Nothing is sent before the first one, so that an error until
// then can have a status of its own.
type events struct {
	w       http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	opening *answer
	begun   bool
	broken  error // nothing can be written any more
}

func newEvents(w http.ResponseWriter, stall time.Duration, opening *answer) *events {
	return &events{w: w, control: http.NewResponseController(w), stall: stall, opening: opening}
}

// begin sends the headers, and the chunk that comes before all others.
func (e *events) begin() {
	if e.begun {
		return
	}
	e.begun = true
	header := e.w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-cache")
	header.Set("X-Accel-Buffering", "no") // a proxy shall not collect them
	e.w.WriteHeader(http.StatusOK)
	if e.opening != nil {
		e.send("", e.opening)
	}
}

// send writes one event, named or not, and flushes it: a delta that waits for the next is no stream.
// It tells whether to go on.
func (e *events) send(name string, value any) bool {
	e.begin()
	data, err := json.Marshal(value)
	if err != nil {
		e.broken = err
		return false
	}
	var event bytes.Buffer
	if name != "" {
		fmt.Fprintf(&event, "event: %s\n", name)
	}
	fmt.Fprintf(&event, "data: %s\n\n", data)
	return e.write(event.Bytes())
}

// done is how OpenAI's clients know that a stream is whole.
func (e *events) done() {
	e.begin()
	e.write([]byte("data: [DONE]\n\n"))
}

// progress tells, in a comment, that a long prompt is being read: the engine has taken the request
// by then, and whatever sits between would else give up on a silent connection. What is queued or
// waits for its model may still be refused, and keeps its status.
func (e *events) progress(p mlxstdio.Progress) {
	if p.Phase == mlxstdio.PhasePrefill {
		e.begin()
		e.write(fmt.Appendf(nil, ": %s, %d of %d %s\n\n", p.Phase, p.Completed, p.Total, p.Unit))
	}
}

// write gives up on a client that has read nothing for long, so that it holds no place in the
// engine.
func (e *events) write(data []byte) bool {
	if e.broken != nil {
		return false
	}
	_ = e.control.SetWriteDeadline(time.Now().Add(e.stall))
	if _, e.broken = e.w.Write(data); e.broken == nil {
		e.broken = e.control.Flush()
	}
	return e.broken == nil
}

// close takes the deadline off a connection that may serve more requests.
func (e *events) close() {
	if e.broken == nil {
		_ = e.control.SetWriteDeadline(time.Time{})
	}
}
