package mlxstdio

import (
	"encoding/json"
	"errors"
	"fmt"
)

// key tells ids apart: 7 and "7" are two.
func key(id any) string { return fmt.Sprintf("%T %v", id, id) }

// write may fail where the engine is gone; what it says then is for the next steps to judge.
func (r *replay) write(data []byte) { _, _ = r.stdin.Write(data) }

func (r *replay) times(step map[string]any) int {
	count := int64(1)
	if times, ok := r.fill(step["times"]).(json.Number); ok {
		count, _ = times.Int64()
	}
	if less, ok := step["less"].(json.Number); ok {
		fewer, _ := less.Int64()
		count -= fewer
	}
	return int(count)
}

// sent begins the account of a request whose id may have been used before.
func (r *replay) sent(message any) {
	if request, ok := message.(map[string]any); ok && request["method"] == "generate" {
		delete(r.deltas, key(request["id"]))
		delete(r.seq, key(request["id"]))
	}
}

func (r *replay) peek() (any, error) {
	if r.next == nil {
		message, open := <-r.messages
		if !open {
			return nil, errors.New("the stream has ended")
		}
		r.next = message
	}
	if err, bad := r.next.(error); bad {
		return nil, err
	}
	return r.next, nil
}

// pass takes the message that was looked at, and keeps account of what was streamed.
func (r *replay) pass() error {
	message, _ := r.next.(map[string]any)
	r.next = nil
	if message["method"] != "stream/delta" {
		return nil
	}
	params, _ := message["params"].(map[string]any)
	text, _ := params["text"].(string)
	id := key(params["requestId"])
	if seq, ok := params["seq"].(json.Number); !ok || seq.String() != fmt.Sprint(r.seq[id]) {
		return fmt.Errorf("`seq` is %v where %d is due", params["seq"], r.seq[id])
	}
	r.seq[id]++
	r.deltas[id] += text
	return nil
}

// endsHere tells whether the next message says that the rest of the transcript does not apply.
func (r *replay) endsHere(pattern any) bool {
	if pattern == nil {
		return false
	}
	message, err := r.peek()
	for err == nil && isNoise(message) {
		if err = r.pass(); err == nil {
			message, err = r.peek()
		}
	}
	return err == nil && r.match(pattern, message) == nil && r.pass() == nil
}

func (r *replay) expectMany(pattern, least any) error {
	count := int64(0)
	for {
		message, err := r.peek()
		if err != nil {
			return err
		}
		if r.match(pattern, message) == nil {
			count++
		} else if !isNoise(message) {
			break
		}
		if err := r.pass(); err != nil {
			return err
		}
	}
	if number, ok := least.(json.Number); ok {
		if most, _ := number.Int64(); count < most {
			return fmt.Errorf("%d came, at least %d are due", count, most)
		}
	}
	return nil
}

// expect waits for one message for each pattern, in whatever order; $many takes any number.
func (r *replay) expect(patterns []any) error {
	var due, many []any
	for _, pattern := range patterns {
		if object, ok := pattern.(map[string]any); ok && object["$many"] != nil {
			many = append(many, object["$many"])
		} else {
			due = append(due, pattern)
		}
	}
	for len(due) > 0 {
		message, err := r.peek()
		if err != nil {
			return err
		}
		if err := r.pass(); err != nil {
			return err
		}
		var reasons []error
		found := -1
		for at, pattern := range due {
			if err := r.match(pattern, message); err != nil {
				reasons = append(reasons, err)
				continue
			}
			found = at
			break
		}
		if found >= 0 {
			due = append(due[:found:found], due[found+1:]...)
			continue
		}
		allowed := isNoise(message)
		for _, pattern := range many {
			allowed = allowed || r.match(pattern, message) == nil
		}
		if !allowed {
			return fmt.Errorf("%w\ncame: %v", errors.Join(reasons...), message)
		}
	}
	return nil
}

// expectExit reads to the end of the stream, where nothing more is due, and looks at the exit code.
func (r *replay) expectExit(code any) error {
	for message := range r.messages {
		if err, bad := message.(error); bad {
			return err
		}
		if !isNoise(message) {
			return fmt.Errorf("nothing more is due, and there came %v", message)
		}
	}
	_ = r.process.Wait()
	r.ended = true
	found := json.Number(fmt.Sprint(r.process.ProcessState.ExitCode()))
	if err := r.match(code, found); err != nil {
		return fmt.Errorf("exit code: %w", err)
	}
	return nil
}

func isNoise(message any) bool {
	object, ok := message.(map[string]any)
	return ok && atAnyTime[object["method"]]
}
