package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
)

func TestChat(t *testing.T) {
	s := startReal(t)
	body := object{"model": "pico", "max_completion_tokens": 8, "seed": -7, "temperature": 0.8, "top_p": 0.9,
		"user": "someone", "store": false, // which mean nothing here
		"messages": list{
			object{"role": "developer", "content": "Write Python."},
			object{"role": "user", "content": list{object{"type": "text", "text": "hello"}}},
		}}
	response, whole := s.ask("/v1/chat/completions", body)
	if response.StatusCode != 200 || len(whole.Choices) != 1 {
		t.Fatalf("status %d: %+v", response.StatusCode, whole)
	}
	first := whole.Choices[0]
	if whole.Object != "chat.completion" || !strings.HasPrefix(whole.ID, "chatcmpl-") || whole.Model != "pico" ||
		first.Message.Role != "assistant" || first.Message.Content == "" || first.FinishReason != "length" {
		t.Errorf("%+v", whole)
	}
	if u := whole.Usage; u == nil || u.CompletionTokens != 8 || u.PromptTokens+8 != u.TotalTokens {
		t.Errorf("usage %+v", u)
	}

	body["stream_options"] = object{"include_usage": true}
	events, text := s.stream(s.ctx, "/v1/chat/completions", body).rest()
	if text != first.Message.Content {
		t.Errorf("streamed %q, whole %q", text, first.Message.Content)
	}
	if len(events) < 5 {
		t.Fatalf("%d events", len(events))
	}
	for _, one := range events[:len(events)-1] {
		if one.comment != "" {
			continue // a prompt that was not read at once
		}
		if one.ID != events[0].ID || one.Object != "chat.completion.chunk" || !strings.Contains(one.data, `"usage":`) {
			t.Errorf("a chunk: %s", one.data)
		}
	}
	if role := events[0].Choices[0].Delta.Role; role != "assistant" {
		t.Errorf("the first chunk has the role %q", role)
	}
	last := events[len(events)-3:] // the reason, the usage, the end
	if last[0].Choices[0].FinishReason != "length" || last[2].data != "[DONE]" {
		t.Errorf("the end: %+v", last)
	}
	if u := last[1].Usage; len(last[1].Choices) != 0 || u == nil || u.CompletionTokens != 8 {
		t.Errorf("usage %+v", u)
	}
}

func TestCompletion(t *testing.T) {
	s := startReal(t)
	body := object{"prompt": list{"def add(a, b):"}, "max_tokens": 12, "stop": "\n\n\n", "temperature": 0}
	_, whole := s.ask("/v1/completions", body)
	if len(whole.Choices) != 1 || whole.Object != "text_completion" || whole.Choices[0].Text == "" {
		t.Fatalf("%+v", whole)
	}
	events, text := s.stream(s.ctx, "/v1/completions", body).rest()
	if text != whole.Choices[0].Text {
		t.Errorf("streamed %q, whole %q", text, whole.Choices[0].Text)
	}
	for _, one := range events {
		if strings.Contains(one.data, "usage") {
			t.Errorf("usage that nobody asked for: %s", one.data)
		}
	}

	// A stop string out of the text ends it there.
	stop := text[len(text)/2:]
	body["stop"] = list{stop, "never said"}
	_, stopped := s.ask("/v1/completions", body)
	want, _, _ := strings.Cut(text, stop)
	if got := stopped.Choices[0]; got.Text != want || got.FinishReason != "stop" {
		t.Errorf("stopped by %q: %+v, not %q", stop, got, want)
	}

	// A token that is forbidden does not come.
	_, scored := s.ask("/v1/completions", object{"prompt": "def f", "max_tokens": 1, "temperature": 0, "logprobs": 2})
	_, other := s.ask("/v1/completions", object{"prompt": "def f", "max_tokens": 1, "temperature": 0,
		"logit_bias": object{"14": -1000}, "presence_penalty": 0.1, "frequency_penalty": 0.1})
	if scored.Choices[0].Text != "(" || other.Choices[0].Text == "(" {
		t.Errorf("unbiased %q, biased %q", scored.Choices[0].Text, other.Choices[0].Text)
	}

	_, filled := s.ask("/v1/completions", object{"prompt": "def f", "suffix": "return a\n", "max_tokens": 4})
	if len(filled.Choices) != 1 || filled.Choices[0].Text == "" {
		t.Errorf("infill: %+v", filled)
	}
	_, tokens := s.ask("/v1/completions", object{"prompt": list{322, 14}, "max_tokens": 2})
	if tokens.Usage == nil || tokens.Usage.PromptTokens != 2 {
		t.Errorf("tokens: %+v", tokens)
	}
}

func TestLogprobs(t *testing.T) {
	s := startReal(t)
	_, whole := s.ask("/v1/completions", object{"prompt": "def f", "max_tokens": 5, "temperature": 0, "logprobs": 2})
	scores := whole.Choices[0].Logprobs
	if text := strings.Join(scores.Tokens, ""); text != whole.Choices[0].Text || len(scores.Tokens) != 5 {
		t.Errorf("tokens %q of %q", scores.Tokens, whole.Choices[0].Text)
	}
	for at, token := range scores.Tokens {
		if scores.TokenLogprobs[at] > 0 || len(scores.TopLogprobs[at]) != 2 ||
			scores.TopLogprobs[at][token] != scores.TokenLogprobs[at] ||
			!strings.HasPrefix(whole.Choices[0].Text[scores.TextOffset[at]:], token) {
			t.Errorf("token %d: %+v", at, scores)
		}
	}
	body := object{"messages": list{object{"role": "user", "content": "hello"}}, "max_tokens": 4,
		"logprobs": true, "top_logprobs": 1, "temperature": 0}
	events, text := s.stream(s.ctx, "/v1/chat/completions", body).rest()
	var named strings.Builder
	for _, one := range events {
		for _, made := range one.Choices {
			for _, row := range made.Logprobs.Content {
				named.WriteString(row.Token)
				if row.Top == nil || len(*row.Top) != 1 || len(row.Bytes) != len(row.Token) {
					t.Errorf("a row: %+v", row)
				}
			}
		}
	}
	if text == "" || named.String() != text {
		t.Errorf("text %q, tokens %q", text, named.String())
	}
	// Scores without candidates.
	delete(body, "top_logprobs")
	_, bare := s.ask("/v1/chat/completions", body)
	if rows := bare.Choices[0].Logprobs.Content; len(rows) != 4 || len(*rows[0].Top) != 0 {
		t.Errorf("rows: %+v", rows)
	}
}

func TestModelsAndHealth(t *testing.T) {
	s := startReal(t)
	get := func(path string, status int, into any) {
		t.Helper()
		response, err := s.server.Client().Get(s.server.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		if err := json.NewDecoder(response.Body).Decode(into); err != nil || response.StatusCode != status {
			t.Errorf("%s: status %d, %v", path, response.StatusCode, err)
		}
	}
	var rows struct{ Data []model }
	get("/v1/models", 200, &rows)
	if len(rows.Data) == 0 || rows.Data[0].ID != "pico" || rows.Data[0].Object != "model" {
		t.Errorf("models: %+v", rows)
	}
	var one model
	get("/v1/models/pico", 200, &one)
	if one.ID != "pico" {
		t.Errorf("model: %+v", one)
	}
	var failed reply
	get("/v1/models/no/such", 404, &failed)
	if failed.Error == nil || *failed.Error.Code != "model_not_found" {
		t.Errorf("model: %+v", failed)
	}
	var health object
	get("/healthz", 200, &health)
	if health["status"] != "ok" {
		t.Errorf("health: %v", health)
	}
	get("/v2/models", 404, &failed)

	// A name that some web page has made to point here.
	request, _ := http.NewRequest("GET", s.server.URL+"/v1/models", nil)
	request.Host = "rebound.example"
	response, err := s.server.Client().Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	if response.StatusCode != 403 {
		t.Errorf("status %d for another host's name", response.StatusCode)
	}

	if err := s.client.Close(); err != nil {
		t.Fatal(err)
	}
	get("/healthz", 503, &health)
}

// What the engine refuses is said in OpenAI's words.
func TestRefusedByTheEngine(t *testing.T) {
	s := startReal(t)
	hello := list{object{"role": "user", "content": "hello"}}
	for _, row := range []struct {
		path, param, code string
		status            int
		body              object
	}{
		{"/v1/completions", "top_p", "invalid_value", 400, object{"prompt": "x", "top_p": 3}},
		{"/v1/completions", "max_tokens", "invalid_value", 400, object{"prompt": "x", "max_tokens": 1 << 20}},
		{"/v1/completions", "stop[1]", "invalid_value", 400, object{"prompt": "x", "stop": list{"a", ""}}},
		{"/v1/completions", "prompt", "context_length_exceeded", 400,
			object{"prompt": strings.Repeat("word ", 4000)}},
		{"/v1/chat/completions", "max_completion_tokens", "invalid_value", 400,
			object{"messages": hello, "max_completion_tokens": 1 << 20}},
		{"/v1/chat/completions", "top_logprobs", "invalid_value", 400,
			object{"messages": hello, "logprobs": true, "top_logprobs": 1000}},
		{"/v1/chat/completions", "messages", "context_length_exceeded", 400,
			object{"messages": list{object{"role": "user", "content": strings.Repeat("word ", 4000)}}}},
		{"/v1/chat/completions", "response_format", "unsupported_parameter", 400,
			object{"messages": hello, "response_format": object{"type": "json_object"}}},
		{"/v1/chat/completions", "model", "model_not_found", 404,
			object{"messages": hello, "model": "/etc"}},
	} {
		for _, stream := range []bool{false, true} {
			row.body["stream"] = stream
			response, got := s.ask(row.path, row.body)
			if e := got.Error; e == nil || e.Param == nil || e.Code == nil || response.StatusCode != row.status ||
				*e.Param != row.param || *e.Code != row.code || e.Type != typeInvalid || e.Message == "" {
				t.Errorf("%s %v %s: status %d, %+v", row.param, stream, row.code, response.StatusCode, e)
			}
		}
	}
}
