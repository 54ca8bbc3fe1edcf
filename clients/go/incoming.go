package mlxstdio

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

type message struct {
	JSONRPC string          `json:"jsonrpc"`
	ID      json.RawMessage `json:"id"`
	Method  string          `json:"method"`
	Params  json.RawMessage `json:"params"`
	Result  json.RawMessage `json:"result"`
	Error   *struct {
		Code    Code      `json:"code"`
		Message string    `json:"message"`
		Data    ErrorData `json:"data"`
	} `json:"error"`
}

func (c *conn) take(line []byte) error {
	if line[0] == '[' { // answers to a batch, which somebody may have sent as raw params
		var messages []json.RawMessage
		if err := json.Unmarshal(line, &messages); err != nil {
			return err
		}
		for _, one := range messages {
			if err := c.take(one); err != nil {
				return err
			}
		}
		return nil
	}
	var m message
	if err := json.Unmarshal(line, &m); err != nil {
		return err
	}
	switch {
	case m.JSONRPC != "2.0":
		return errors.New("it is not JSON-RPC 2.0")
	case m.Method == NotificationStreamDelta:
		var delta StreamDelta
		if err := json.Unmarshal(m.Params, &delta); err != nil {
			return err
		}
		if found := c.find(delta.RequestID); found != nil {
			found.addDelta(delta)
		}
	case m.Method == NotificationProgress:
		var progress Progress
		if err := json.Unmarshal(m.Params, &progress); err != nil {
			return err
		}
		if found := c.find(progress.RequestID); found != nil {
			found.addProgress(progress)
		}
	case m.Method != "":
		c.takeNote(m)
	default:
		return c.takeReply(m)
	}
	return nil
}

func (c *conn) find(id StringOrInteger) *call {
	number, ok := id.Value().(int64)
	if !ok {
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pending[number]
}

func (c *conn) takeNote(m message) {
	if m.Method == NotificationEngineFatal {
		var fatal Fatal
		if json.Unmarshal(m.Params, &fatal) == nil {
			c.mu.Lock()
			if c.fatal == nil {
				close(c.doomed)
			}
			c.fatal = &fatal
			c.mu.Unlock()
		}
	}
	if c.note != nil {
		c.note(m.Method, m.Params)
	}
}

func (c *conn) takeReply(m message) error {
	if m.Result == nil && m.Error == nil {
		return errors.New("it is neither a reply nor a notification")
	}
	id, err := strconv.ParseInt(string(m.ID), 10, 64)
	c.mu.Lock()
	found := c.pending[id]
	if err == nil {
		delete(c.pending, id)
	}
	c.mu.Unlock()
	if found == nil || err != nil {
		// An error about what the engine could not read has no id; no request waits for it.
		text := ""
		if m.Error != nil {
			text = m.Error.Message
		}
		c.log.Warn("mlxstdio: a reply to no request", "id", string(m.ID), "error", text)
		return nil
	}
	if m.Error != nil {
		found.finish(nil, &Error{m.Error.Code, m.Error.Message, m.Error.Data, found.method})
		return nil
	}
	found.finish(m.Result, nil)
	return nil
}

// streamError is about bytes that are no message. Whoever wrote them, it was not the engine's
// protocol, and nothing that follows can be trusted.
type streamError struct {
	line []byte // its beginning
	what string
}

func newStreamError(line []byte, what string) *streamError {
	const kept = 200
	return &streamError{bytes.Clone(line[:min(len(line), kept)]), what}
}

func (e *streamError) Error() string {
	return fmt.Sprintf("what came on its standard output is no message (%s): %q", e.what, e.line)
}
