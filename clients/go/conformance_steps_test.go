package mlxstdio

import (
	"encoding/json"
	"errors"
	"fmt"
)

// key tells ids apart: 7 and "7" are two.
func key(id any) string { return fmt.Sprintf("%T %v", id, id) }

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
	if request, ok := message.(map[string]any); ok {
		r.beforeLack[key(request["id"])] = beforeLack(request)
	}
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

// some is a $many, and how many have come.
type some struct {
	pattern             any
	least, below, count any
	came                int64
}

func asMany(pattern any) *some {
	object, ok := pattern.(map[string]any)
	if !ok || object["$many"] == nil {
		return nil
	}
	return &some{object["$many"], object["$min"], object["$below"], object["$count"], 0}
}

// end looks at how many there were.
func (r *replay) end(many *some) error {
	if number, ok := r.fill(many.least).(json.Number); ok {
		if least, _ := number.Int64(); many.came < least {
			return fmt.Errorf("%d came, at least %d are due", many.came, least)
		}
	}
	if number, ok := r.fill(many.below).(json.Number); ok {
		if below, _ := number.Int64(); many.came >= below {
			return fmt.Errorf("%d came, fewer than %d are due", many.came, below)
		}
	}
	if name, ok := many.count.(string); ok {
		r.names[name] = json.Number(fmt.Sprint(many.came))
	}
	return nil
}

func (r *replay) expectMany(many *some) error {
	for {
		message, err := r.peek()
		if err != nil {
			return err
		}
		if r.match(many.pattern, message) == nil {
			many.came++
		} else if !isNoise(message) {
			return r.end(many)
		}
		if err := r.pass(); err != nil {
			return err
		}
	}
}

// expect waits for one message for each pattern, in whatever order; $many takes any number. After one
// that matches orEnd, nothing more is due but the end of what is in flight.
func (r *replay) expect(patterns []any, orEnd any) error {
	var due []any
	var many []*some
	for _, pattern := range patterns {
		if found := asMany(pattern); found != nil {
			many = append(many, found)
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
		if r.cutShort = orEnd != nil && r.match(orEnd, message) == nil; r.cutShort {
			return nil
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
		if r.isOneOf(many, message) || isNoise(message) {
			continue
		}
		if r.cutShort = r.isLack(message, due); r.cutShort {
			return nil
		}
		return fmt.Errorf("%w\ncame: %v", errors.Join(reasons...), message)
	}
	for _, found := range many {
		if err := r.end(found); err != nil {
			return err
		}
	}
	return nil
}

func (r *replay) isOneOf(many []*some, message any) bool {
	for _, one := range many {
		if r.match(one.pattern, message) == nil {
			one.came++
			return true
		}
	}
	return false
}

// expectExit reads to the end of the stream, where nothing more is due (after an orEnd, what was in
// flight may go on), and looks at the exit code.
func (r *replay) expectExit(code any) error {
	for message := range r.messages {
		if err, bad := message.(error); bad {
			return err
		}
		if !isNoise(message) && !r.cutShort {
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
	method, named := object["method"].(string)
	return ok && named && !askedFor[method]
}
