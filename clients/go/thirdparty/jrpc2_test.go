package thirdparty

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/creachadair/jrpc2"
)

const cancelled = jrpc2.Code(-32800)

type object = map[string]any

var (
	short = object{"prompt": "def add(a, b):", "maxTokens": 12, "ignoreEos": true}
	long  = object{"prompt": "def add(a, b):", "maxTokens": 800, "ignoreEos": true}
)

// failure checks that an error is the engine's, and gives the members of its data.
func failure(t *testing.T, err error, code jrpc2.Code, kind string) object {
	t.Helper()
	var told *jrpc2.Error
	if !errors.As(err, &told) || told.Code != code {
		t.Fatalf("got %v, want an error with code %d", err, code)
	}
	var data object
	if err := json.Unmarshal(told.Data, &data); err != nil || data["kind"] != kind {
		t.Fatalf("got data %s, want kind %q", told.Data, kind)
	}
	return data
}

func TestCalls(t *testing.T) {
	p := connect(t, jrpc2.ClientOptions{})
	var hello struct {
		ProtocolVersion int `json:"protocolVersion"`
		ServerInfo      struct {
			Name string `json:"name"`
		} `json:"serverInfo"`
	}
	if err := p.CallResult(p.ctx, "initialize", object{"protocolVersion": 1}, &hello); err != nil {
		t.Fatal(err)
	}
	if hello.ProtocolVersion != 1 || hello.ServerInfo.Name != "mlx-stdio" {
		t.Errorf("initialize: %+v", hello)
	}
	if _, err := p.Call(p.ctx, "ping", nil); err != nil {
		t.Errorf("ping: %v", err)
	}
	_, err := p.Call(p.ctx, "nosuchmethod", nil)
	failure(t, err, -32601, "methodNotFound")
	_, err = p.Call(p.ctx, "generate", object{"prompt": 5})
	if data := failure(t, err, -32602, "invalidParams"); data["path"] != "$.prompt" {
		t.Errorf("path: %v", data)
	}
	rsp, err := p.Call(p.ctx, "shutdown", nil)
	if err != nil || rsp.ResultString() != "null" {
		t.Errorf("shutdown: %v, %v", rsp, err)
	}
	_, err = p.Call(p.ctx, "generate", short)
	failure(t, err, 1009, "shuttingDown")
	if err := p.Notify(p.ctx, "exit", nil); err != nil {
		t.Fatal(err)
	}
	if err := p.engine.Wait(); err != nil {
		t.Errorf("the engine left with: %v", err)
	}
}

func TestNotificationsComeInOrderAndBeforeTheReply(t *testing.T) {
	p := connect(t, jrpc2.ClientOptions{})
	rsp, err := p.Call(p.ctx, "generate", short)
	if err != nil {
		t.Fatal(err)
	}
	var result outcome
	if err := rsp.UnmarshalResult(&result); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	sent, replied := 0, false
	for _, line := range p.tap.received() {
		var message struct {
			ID     json.RawMessage
			Method string
			Params delta
		}
		if err := json.Unmarshal(line, &message); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		replied = replied || string(message.ID) == rsp.ID()
		if message.Method != "stream/delta" {
			continue
		}
		if replied || message.Params.Seq != sent || string(message.Params.RequestID) != rsp.ID() {
			t.Errorf("out of order after %d deltas: %s", sent, line)
		}
		text.WriteString(message.Params.Text)
		sent++
	}
	if sent < 3 || text.String() != result.Text || result.Usage.CompletionTokens != 12 {
		t.Errorf("%d deltas, %q, result %+v", sent, text.String(), result)
	}
	var seen []int
	for range sent {
		seen = append(seen, (<-p.deltas).Seq)
	}
	slices.Sort(seen)
	if seen[0] != 0 || seen[sent-1] != sent-1 {
		t.Errorf("handed to the callback: %v", seen)
	}
}

func TestBatches(t *testing.T) {
	p := connect(t, jrpc2.ClientOptions{})
	rsps, err := p.Batch(p.ctx, []jrpc2.Spec{
		{Method: "generate", Params: short},
		{Method: "nosuchmethod"},
		{Method: "$/cancelRequest", Params: object{"id": 77}, Notify: true},
		{Method: "ping"},
		{Method: "tokenize", Params: object{"text": "hello"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(rsps) != 4 {
		t.Fatalf("%d responses", len(rsps))
	}
	var result outcome
	if err := rsps[0].UnmarshalResult(&result); err != nil || result.Text == "" {
		t.Errorf("generate: %+v, %v", result, err)
	}
	failure(t, rsps[1].Error(), -32601, "methodNotFound")
	for _, rsp := range rsps[2:] {
		if err := rsp.Error(); err != nil {
			t.Errorf("%v", err)
		}
	}
	// One line answers all of them, and the members of a batch stream as they would alone.
	lines := p.tap.received()
	if line := lines[len(lines)-1]; line[0] != '[' {
		t.Errorf("the last line is no batch: %s", line)
	}
	if first := <-p.deltas; string(first.RequestID) != rsps[0].ID() {
		t.Errorf("a delta of %s", first.RequestID)
	}
	rsps, err = p.Batch(p.ctx, []jrpc2.Spec{{Method: "ping", Notify: true}})
	if err != nil || len(rsps) != 0 {
		t.Errorf("a batch of notifications: %v, %v", rsps, err)
	}
	if _, err := p.Call(p.ctx, "ping", nil); err != nil {
		t.Error(err)
	}
}

func TestCancelByNotification(t *testing.T) {
	p := connect(t, jrpc2.ClientOptions{})
	done := make(chan error, 1)
	go func() {
		_, err := p.Call(p.ctx, "generate", long)
		done <- err
	}()
	first := <-p.deltas
	err := p.Notify(p.ctx, "$/cancelRequest", object{"id": first.RequestID})
	if err != nil {
		t.Fatal(err)
	}
	data := failure(t, <-done, cancelled, "cancelled")
	partial, _ := data["partial"].(object)
	if text, _ := partial["text"].(string); text == "" {
		t.Errorf("no partial text: %v", data)
	}
}

// A context that ends is the library's own way to give a request up; its hook tells the engine.
func TestCancelByContext(t *testing.T) {
	p := connect(t, jrpc2.ClientOptions{OnCancel: func(client *jrpc2.Client, rsp *jrpc2.Response) {
		id := json.RawMessage(rsp.ID())
		client.Notify(context.Background(), "$/cancelRequest", object{"id": id})
	}})
	ctx, cancel := context.WithCancel(p.ctx)
	go func() {
		<-p.deltas
		cancel()
	}()
	if _, err := p.Call(ctx, "generate", long); !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	var status struct {
		Counters struct {
			Cancelled int `json:"cancelled"`
		} `json:"counters"`
	}
	for p.ctx.Err() == nil && status.Counters.Cancelled == 0 {
		if err := p.CallResult(p.ctx, "engine/status", nil, &status); err != nil {
			t.Fatal(err)
		}
	}
	if status.Counters.Cancelled != 1 {
		t.Errorf("the engine counts %d cancelled requests", status.Counters.Cancelled)
	}
}
