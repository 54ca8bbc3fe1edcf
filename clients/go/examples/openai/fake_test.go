package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"syscall"
	"testing"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// slow says so much, so slowly, that no test sees the end of it.
var slow = object{"stream": strings.Repeat("word ", 20000), "everyMs": 2}

// inFlight counts what the fake engine does by its script, too, which has no place of its own.
func inFlight(status *mlxstdio.StatusResult) int64 {
	return status.Requests.Running + status.Requests.Queued
}

func failing(kind mlxstdio.ErrorKind, data object) object {
	if data == nil {
		data = object{}
	}
	return object{"error": object{"kind": kind, "message": "why", "data": data}}
}

func TestStatusOfErrors(t *testing.T) {
	rows := []struct {
		kind        mlxstdio.ErrorKind
		data        object
		status      int
		code, param string
		final       bool
	}{
		{mlxstdio.KindOverloaded, object{"retryAfterMs": 1200}, 503, "overloaded", "", false},
		{mlxstdio.KindModelNotFound, object{"model": "x"}, 404, "model_not_found", "model", false},
		{mlxstdio.KindModelLoadFailed, nil, 500, "model_load_failed", "", true},
		{mlxstdio.KindContextLengthExceeded, nil, 400, "context_length_exceeded", "prompt", false},
		{mlxstdio.KindInvalidParams, object{"path": "$.frequencyPenalty"}, 400, "invalid_value", "frequency_penalty", false},
		{mlxstdio.KindDeadlineExceeded, nil, 504, "deadline_exceeded", "", true},
		{mlxstdio.KindOutOfMemory, object{"neededBytes": 2, "limitBytes": 1}, 507, "out_of_memory", "", true},
		{mlxstdio.KindInternalError, nil, 500, "internalError", "", false},
	}
	var rules list
	for _, row := range rows {
		rules = append(rules, rule(string(row.kind), failing(row.kind, row.data)))
	}
	s := startFake(t, defaultLimits, object{"rules": rules})
	for _, row := range rows {
		for _, stream := range []bool{false, true} { // before any text, a stream has a status too
			response, got := s.ask("/v1/completions", object{"prompt": row.kind, "stream": stream})
			e := got.Error
			if e == nil || response.StatusCode != row.status || *e.Code != row.code || e.Message != "why" {
				t.Errorf("%s, %v: status %d, %+v", row.kind, stream, response.StatusCode, e)
				continue
			}
			if param := e.Param; (param == nil) != (row.param == "") || param != nil && *param != row.param {
				t.Errorf("%s: param %v", row.kind, param)
			}
			if final := response.Header.Get("X-Should-Retry") == "false"; final != row.final {
				t.Errorf("%s: X-Should-Retry: %v", row.kind, final)
			}
			after, ms := response.Header.Get("Retry-After"), response.Header.Get("Retry-After-Ms")
			if row.kind == mlxstdio.KindOverloaded && (after != "2" || ms != "1200") {
				t.Errorf("Retry-After: %q, %q", after, ms)
			}
		}
	}
}

func TestErrorInMidStream(t *testing.T) {
	s := startFake(t, defaultLimits, object{"rules": list{
		rule("oom", object{"delta": "one "}, object{"delta": "two "}, failing(mlxstdio.KindOutOfMemory, nil)),
		rule("crash", object{"delta": "one "}, object{"delta": "two "}, object{"delayMs": 1, "signal": "SIGKILL"}),
		rule("fatal", object{"delta": "one "}, object{"delta": "two "}, object{"fatal": "lost the device"}),
	}})
	for prompt, code := range map[string]string{"oom": "out_of_memory", "crash": "engine_exit", "fatal": "engine_fault"} {
		events, text := s.stream(s.ctx, "/v1/completions", object{"prompt": prompt}).rest()
		if text != "one two " || len(events) < 2 {
			t.Fatalf("%s: text %q of %d events", prompt, text, len(events))
		}
		last := events[len(events)-1] // and not [DONE]
		if last.name != "error" || last.Error == nil || *last.Error.Code != code || last.Error.Type != typeServer {
			t.Errorf("%s: the last event is %q: %s", prompt, last.name, last.data)
		}
		// The others go on, with another engine where the first one has left.
		_, got := s.ask("/v1/completions", object{"prompt": "hello"})
		if len(got.Choices) != 1 || got.Choices[0].Text != "hello" {
			t.Errorf("after %s: %+v", prompt, got)
		}
	}
}

// An engine that leaves before any text is asked once more by the client; here in vain.
func TestCrashBeforeText(t *testing.T) {
	s := startFake(t, defaultLimits, object{"rules": list{rule("crash", object{"exit": 3})}})
	for _, stream := range []bool{false, true} {
		response, got := s.ask("/v1/completions", object{"prompt": "crash", "stream": stream})
		if response.StatusCode != 502 || got.Error == nil || *got.Error.Code != "engine_exit" {
			t.Errorf("status %d, %+v", response.StatusCode, got.Error)
		}
		if strings.Contains(got.Error.Message, "exit code") {
			t.Errorf("the engine's own words: %s", got.Error.Message)
		}
	}
}

// Each delta is there before the next one is made: the engine says no more than these.
func TestEveryDeltaIsFlushed(t *testing.T) {
	s := startFake(t, defaultLimits, object{"rules": list{
		rule("pause", object{"delta": "one "}, object{"silent": true}),
		rule("long", object{"progress": object{"phase": "prefill", "completed": 3, "total": 9, "unit": "tokens"}},
			object{"silent": true}),
	}})
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	pause := s.stream(ctx, "/v1/completions", object{"prompt": "pause"})
	if got, _ := pause.next(); len(got.Choices) != 1 || got.Choices[0].Text != "one " {
		t.Errorf("first event: %+v", got)
	}
	long := s.stream(ctx, "/v1/completions", object{"prompt": "long"})
	if got, _ := long.next(); got.comment != "prefill, 3 of 9 tokens" {
		t.Errorf("first event: %+v", got)
	}
	cancel()
	s.await("two cancelled", func(status *mlxstdio.StatusResult) bool { return status.Counters.Cancelled == 2 })
}

func TestDisconnectCancels(t *testing.T) {
	s := startFake(t, defaultLimits, object{"rules": list{rule("slow", slow)}})
	ctx, cancel := context.WithCancel(s.ctx)
	stream := s.stream(ctx, "/v1/completions", object{"prompt": "slow"})
	if _, ok := stream.next(); !ok {
		t.Fatal("no event")
	}
	cancel()
	s.await("the stream to be cancelled", func(status *mlxstdio.StatusResult) bool {
		return status.Counters.Cancelled == 1 && inFlight(status) == 0
	})

	ctx, cancel = context.WithCancel(s.ctx)
	gone := make(chan error, 1)
	go func() {
		request := strings.NewReader(`{"prompt": "slow"}`)
		response, err := post(ctx, s.server.URL+"/v1/completions", request)
		if err == nil {
			_ = response.Body.Close()
		}
		gone <- err
	}()
	s.await("the request to arrive", func(status *mlxstdio.StatusResult) bool { return inFlight(status) == 1 })
	cancel()
	if err := <-gone; err == nil {
		t.Error("an answer to a request that was given up")
	}
	s.await("the request to be cancelled", func(status *mlxstdio.StatusResult) bool {
		return status.Counters.Cancelled == 2 && inFlight(status) == 0
	})
}

// A client that keeps its connection and reads nothing does not hold its place for ever.
func TestStalledReader(t *testing.T) {
	bounds := defaultLimits
	bounds.stall = 200 * time.Millisecond
	s := startFake(t, bounds, object{"rules": list{rule("slow", slow)}})
	// Buffers that are full soon; the system's own would hold all of the text.
	server := httptest.NewUnstartedServer(newFront(s.client, slog.New(slog.DiscardHandler), bounds).routes())
	server.Config.ConnContext = func(ctx context.Context, conn net.Conn) context.Context {
		_ = conn.(*net.TCPConn).SetWriteBuffer(4096)
		return ctx
	}
	server.Start()
	defer server.Close()
	dialer := net.Dialer{Control: func(_, _ string, raw syscall.RawConn) error {
		return raw.Control(func(fd uintptr) {
			_ = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4096)
		})
	}}
	conn, err := dialer.DialContext(s.ctx, "tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	body := `{"prompt":"slow","stream":true}`
	fmt.Fprintf(conn, "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"+
		"Content-Length: %d\r\n\r\n%s", len(body), body)
	s.await("the stream to be cancelled", func(status *mlxstdio.StatusResult) bool {
		return status.Counters.Cancelled == 1
	})
}

func TestDeadline(t *testing.T) {
	bounds := defaultLimits
	bounds.timeout = 300 * time.Millisecond
	s := startFake(t, bounds, object{"rules": list{
		rule("silent", object{"silent": true}),
		rule("pause", object{"delta": "one "}, object{"silent": true}),
		rule("slow", slow),
	}})
	response, got := s.ask("/v1/completions", object{"prompt": "silent"})
	if response.StatusCode != 504 || *got.Error.Code != "deadline_exceeded" ||
		response.Header.Get("X-Should-Retry") != "false" {
		t.Errorf("status %d, %+v", response.StatusCode, got.Error)
	}
	for _, prompt := range []string{"pause", "slow"} {
		response := s.open(s.ctx, "/v1/completions", object{"prompt": prompt, "stream": true})
		if response.StatusCode == 504 {
			continue // on a machine so slow, it was over before its first word
		}
		events, _ := (&reader{t, newLines(response)}).rest()
		last := events[len(events)-1]
		if last.name != "error" || *last.Error.Code != "deadline_exceeded" {
			t.Errorf("%s: the last event: %q, %s", prompt, last.name, last.data)
		}
	}
}
