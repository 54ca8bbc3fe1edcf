package mlxstdio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The transcripts are those that `mlx-stdio conformance` replays; docs/conformance.md has the format.
const (
	transcriptFolder = "../../mlx_stdio/conformance/transcripts"
	transcriptTime   = 60 * time.Second
)

// Other notifications, also such as were added later, are passed over where no step asks for them.
var askedFor = map[string]bool{"stream/delta": true, "engine/fatal": true}

var signals = map[string]os.Signal{"SIGTERM": syscall.SIGTERM, "SIGINT": syscall.SIGINT}

func TestConformance(t *testing.T) {
	command, folder := conformanceCommand(t)
	files, err := filepath.Glob(filepath.Join(transcriptFolder, "*.jsonl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no transcripts in %s: %v", transcriptFolder, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			t.Parallel()
			replayTranscript(t, file, command, folder)
		})
	}
}

// The engine: $MLX_STDIO_COMMAND, or the fake one of this checkout.
func conformanceCommand(t *testing.T) (command []string, folder string) {
	if given := os.Getenv("MLX_STDIO_COMMAND"); given != "" {
		return strings.Fields(given), ""
	}
	return append(checkoutEngine(t), "fake"), "../.."
}

type replay struct {
	process    *exec.Cmd
	stdin      io.WriteCloser
	rest       []byte     // of a message that the engine has not taken yet
	gate       sync.Mutex // held while stdout is not read
	stdout     io.ReadCloser
	messages   chan any // an error for what is no message
	next       any      // looked at already
	framing    string
	ended      bool // the process has
	cutShort   bool // by an orEnd
	seq        map[string]int64
	beforeLack map[string][]string // by id, see beforeLack
	bindings
}

func replayTranscript(t *testing.T, file string, command []string, folder string) {
	lines := readTranscript(t, file)
	options := readOptions(t, lines[0])
	if len(options.Arguments) > 0 && os.Getenv("MLX_STDIO_NO_ARGUMENTS") != "" {
		t.Skip("it has arguments")
	}
	bound := bindings{makeFolders(t, options.Folders), map[string]string{}}
	command = append(slices.Clone(command), options.filled(bound)...)
	ctx, stop := context.WithTimeout(context.Background(), transcriptTime)
	defer stop()
	process := exec.CommandContext(ctx, command[0], command[1:]...)
	process.Dir = folder
	var log bytes.Buffer
	process.Stderr = &log
	stdin, err1 := process.StdinPipe()
	stdout, err2 := process.StdoutPipe()
	if err := errors.Join(err1, err2, process.Start()); err != nil {
		t.Fatal(err)
	}
	// The reader is never held up: while a step writes, nobody takes what it has read.
	r := &replay{process: process, stdin: stdin, stdout: stdout, messages: make(chan any, 1<<17),
		framing: options.Framing, seq: map[string]int64{}, beforeLack: map[string][]string{}, bindings: bound}
	go r.read()
	steps := append(lines[1:], map[string]any{"exit": json.Number("0")})
	for at, step := range steps {
		last := at == len(steps)-1
		if r.ended || r.cutShort && !last {
			continue
		}
		if last {
			_ = stdin.Close()
		}
		if err := r.take(step); err != nil {
			stop()
			_ = process.Wait() // then its log is whole
			t.Fatalf("line %d: %v\nstep: %v\nstderr: %s", at+2, err, step, log.Bytes())
		}
	}
}

func readTranscript(t *testing.T, file string) (lines []map[string]any) {
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
		value, err := parse([]byte(line))
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		lines = append(lines, value.(map[string]any))
	}
	return lines
}

func parse(data []byte) (value any, err error) {
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.UseNumber()
	if err = decoder.Decode(&value); err == nil && decoder.InputOffset() != int64(len(bytes.TrimRight(data, " \t\r\n"))) {
		err = errors.New("more than one value")
	}
	return value, err
}

// read runs beside the steps, so that an engine that writes much is never held up.
func (r *replay) read() {
	defer close(r.messages)
	reader := bufio.NewReader(gated{r})
	for {
		body, err := reader.ReadBytes('\n')
		if err == nil && r.framing == "content-length" {
			text, found := strings.CutPrefix(string(body), "Content-Length: ")
			length, bad := strconv.Atoi(strings.TrimSpace(text))
			if _, blank := reader.Discard(2); !found || bad != nil || blank != nil {
				r.messages <- fmt.Errorf("no frame: %q", body)
				return
			}
			body = make([]byte, length)
			_, err = io.ReadFull(reader, body)
		}
		if err != nil {
			if err == io.EOF && len(body) > 0 {
				r.messages <- fmt.Errorf("a message that does not end: %q", body)
			}
			return
		}
		message, err := parse(body)
		if err != nil {
			message = fmt.Errorf("not JSON: %v: %q", err, body)
		}
		r.messages <- message
	}
}

func (r *replay) take(step map[string]any) error {
	for kind, value := range step {
		switch kind {
		case "send":
			for number := range r.times(step) {
				if err := r.send(value, number); err != nil {
					return err
				}
			}
		case "sendUntilFull":
			return r.sendUntilFull(value, step["most"], step["count"])
		case "reading":
			r.setReading(value.(bool))
		case "sendRaw":
			r.write(bytes.Repeat([]byte(value.(string)), r.times(step)))
		case "sendHex":
			data, err := hex.DecodeString(value.(string))
			if err != nil {
				return err
			}
			r.write(data)
		case "expect":
			if r.cutShort = r.endsHere(step["orEnd"]); r.cutShort {
				return nil
			}
			if many := asMany(value); many != nil {
				return r.expectMany(many)
			}
			return r.expect([]any{value}, nil)
		case "expectAnyOrder":
			return r.expect(value.([]any), step["orEnd"])
		case "close":
			return r.stdin.Close()
		case "closeStdout":
			return r.stdout.Close()
		case "signal":
			return r.process.Process.Signal(signals[value.(string)])
		case "wait":
			milliseconds, _ := value.(json.Number).Int64()
			time.Sleep(time.Duration(milliseconds) * time.Millisecond)
		case "exit":
			return r.expectExit(value)
		case "times", "less", "most", "count", "orEnd", "note":
		default:
			return fmt.Errorf("no step is named %q", kind)
		}
	}
	return nil
}
