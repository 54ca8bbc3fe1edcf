package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/internal/enginetest"
)

type object = map[string]any
type list = []any

// site is a front on a port of its own, with an engine of its own.
type site struct {
	*testing.T
	ctx    context.Context
	client *mlxstdio.Client
	server *httptest.Server
}

// start puts a front before the engine of that command.
func start(t *testing.T, bounds limits, words []string) *site {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), enginetest.Patience)
	t.Cleanup(cancel)
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{Command: words[0], Args: words[1:],
		Dir: enginetest.Root(), Restart: &mlxstdio.Restart{Wait: time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	f := newFront(client, slog.New(slog.DiscardHandler), bounds)
	s := &site{T: t, ctx: ctx, client: client, server: httptest.NewServer(f.routes())}
	t.Cleanup(func() {
		cancel() // of requests that a failed test has left
		s.server.Close()
		if err := client.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return s
}

func startReal(t *testing.T) *site {
	t.Helper()
	return start(t, defaultLimits, enginetest.Real(t))
}

func startFake(t *testing.T, bounds limits, script object) *site {
	t.Helper()
	return start(t, bounds, enginetest.Fake(t, written(t, script)))
}

func written(t *testing.T, script object) string {
	t.Helper()
	data, err := json.Marshal(script)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// rule takes completions with that prompt.
func rule(prompt string, steps ...any) object {
	return object{"method": "generate", "params": object{"prompt": prompt}, "steps": steps}
}

// open sends a request and leaves the body to be read.
func (s *site) open(ctx context.Context, path string, body any) *http.Response {
	s.Helper()
	data, err := json.Marshal(body)
	if err != nil {
		s.Fatal(err)
	}
	request, err := http.NewRequestWithContext(ctx, "POST", s.server.URL+path, bytes.NewReader(data))
	if err != nil {
		s.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json; charset=utf-8")
	response, err := s.server.Client().Do(request)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = response.Body.Close() })
	return response
}

// reply is an answer, whole or one event of a stream, or an error.
type reply struct {
	ID, Object, Model string
	Choices           []struct {
		Message, Delta struct{ Role, Content string }
		Text           string
		FinishReason   string `json:"finish_reason"`
		Logprobs       struct {
			Content       []score
			Tokens        []string
			TokenLogprobs []float64            `json:"token_logprobs"`
			TopLogprobs   []map[string]float64 `json:"top_logprobs"`
			TextOffset    []int                `json:"text_offset"`
		}
	}
	Usage *usage
	Error *apiError
}

// ask sends a request that is answered in one piece.
func (s *site) ask(path string, body any) (*http.Response, reply) {
	s.Helper()
	response := s.open(s.ctx, path, body)
	data, err := io.ReadAll(response.Body)
	if err != nil {
		s.Fatal(err)
	}
	var got reply
	if err := json.Unmarshal(data, &got); err != nil {
		s.Fatalf("%v: %s", err, data)
	}
	return response, got
}

// event is one of a stream; a comment has no data.
type event struct {
	name, data, comment string
	reply
}

// reader reads a stream event by event.
type reader struct {
	*testing.T
	lines *bufio.Reader
}

func (s *site) stream(ctx context.Context, path string, body object) *reader {
	s.Helper()
	body = maps.Clone(body)
	body["stream"] = true
	response := s.open(ctx, path, body)
	if kind := response.Header.Get("Content-Type"); response.StatusCode != 200 || kind != "text/event-stream" {
		data, _ := io.ReadAll(response.Body)
		s.Fatalf("status %d, type %s: %s", response.StatusCode, kind, data)
	}
	return &reader{s.T, bufio.NewReader(response.Body)}
}

// next is the next event, and false at the end of the body.
func (r *reader) next() (got event, ok bool) {
	r.Helper()
	for {
		line, err := r.lines.ReadString('\n')
		if err == io.EOF && line == "" && !ok {
			return got, false
		}
		if err != nil {
			r.Fatalf("%v after %q", err, line)
		}
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch {
		case line == "\n":
			if got.data != "" && got.data != "[DONE]" {
				if err := json.Unmarshal([]byte(got.data), &got.reply); err != nil {
					r.Fatalf("%v: %s", err, got.data)
				}
			}
			return got, true
		case name == "event":
			got.name = value
		case name == "data":
			got.data = value
		case name == "":
			got.comment = value
		default:
			r.Fatalf("no event: %q", line)
		}
		ok = true
	}
}

// rest is what still comes, and the text of it.
func (r *reader) rest() (events []event, text string) {
	r.Helper()
	for {
		got, ok := r.next()
		if !ok {
			return events, text
		}
		events = append(events, got)
		for _, one := range got.Choices {
			text += one.Text + one.Delta.Content
		}
	}
}

// await asks the engine until it says what the test waits for.
func (s *site) await(what string, holds func(*mlxstdio.StatusResult) bool) {
	s.Helper()
	for {
		status, err := s.client.Status(s.ctx)
		if err != nil {
			s.Fatalf("waiting for %s: %v", what, err)
		}
		if holds(status) {
			return
		}
	}
}
