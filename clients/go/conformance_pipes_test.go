package mlxstdio

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// A pipe that has taken nothing for so long is full, and its reader does not read.
const fullTime = 2 * time.Second

type options struct {
	Framing   string
	Arguments []any
	Folders   map[string]map[string]string
}

func readOptions(t *testing.T, head map[string]any) options {
	found := options{Framing: "newline"}
	text, err := json.Marshal(head["options"])
	if err := errors.Join(err, json.Unmarshal(text, &found)); err != nil {
		t.Fatal(err)
	}
	return found
}

// filled puts the folders' paths into the arguments.
func (o *options) filled(bound bindings) (arguments []string) {
	for _, argument := range o.Arguments {
		arguments = append(arguments, fmt.Sprint(bound.fill(argument)))
	}
	return arguments
}

// makeFolders makes what a transcript brings along, and gives each folder's path by its name.
func makeFolders(t *testing.T, folders map[string]map[string]string) map[string]any {
	names := map[string]any{}
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, files := range folders {
		folder := filepath.Join(root, name)
		names[name] = folder
		err := os.Mkdir(folder, 0o777)
		for path, text := range files {
			file := filepath.Join(folder, filepath.FromSlash(path))
			err = errors.Join(err, os.MkdirAll(filepath.Dir(file), 0o777),
				os.WriteFile(file, []byte(text), 0o666))
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// gated is the engine's stdout; it is read only while the gate is open.
type gated struct{ *replay }

func (g gated) Read(data []byte) (int, error) {
	g.gate.Lock()
	//lint:ignore SA2001 nothing is guarded: it only waits until the gate is open
	g.gate.Unlock()
	return g.stdout.Read(data)
}

// setReading opens or shuts the gate. A read that waits already takes what comes next.
func (r *replay) setReading(reading bool) {
	if !reading {
		r.gate.Lock()
		return
	}
	r.gate.Unlock()
	r.write(nil)
}

// write may fail where the engine is gone; what it says then is for the next steps to judge.
func (r *replay) write(data []byte) {
	_, _ = r.stdin.Write(append(r.rest, data...))
	r.rest = nil
}

func (r *replay) send(template any, number int) error {
	body, err := r.framed(template, number)
	if err == nil {
		r.write(body)
	}
	return err
}

// framed is a message in its frame, with an id that is higher by a number.
func (r *replay) framed(template any, number int) ([]byte, error) {
	message := r.fill(template)
	if number > 0 {
		request := message.(map[string]any)
		first, _ := request["id"].(json.Number).Int64()
		request["id"] = json.Number(fmt.Sprint(first + int64(number)))
	}
	r.sent(message)
	body, err := json.Marshal(message)
	if r.framing == "newline" {
		return append(body, '\n'), err
	}
	return append(fmt.Appendf(nil, "Content-Length: %d\r\n\r\n", len(body)), body...), err
}

func (r *replay) sendUntilFull(template, most, count any) error {
	pipe := r.stdin.(interface{ SetWriteDeadline(time.Time) error })
	defer func() { _ = pipe.SetWriteDeadline(time.Time{}) }()
	limit, _ := most.(json.Number).Int64()
	for number := range int(limit) {
		body, err := r.framed(template, number)
		if err != nil {
			return err
		}
		for len(body) > 0 {
			if err := pipe.SetWriteDeadline(time.Now().Add(fullTime)); err != nil {
				return err
			}
			written, err := r.stdin.Write(body)
			body = body[written:]
			if errors.Is(err, os.ErrDeadlineExceeded) && written == 0 {
				r.rest = body
				if name, ok := count.(string); ok {
					r.names[name] = json.Number(fmt.Sprint(number + 1))
				}
				return nil
			}
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
	}
	return fmt.Errorf("it has read %d messages, and none of its own was read", limit)
}
