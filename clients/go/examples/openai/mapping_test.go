package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

func newLines(response *http.Response) *bufio.Reader { return bufio.NewReader(response.Body) }

func post(ctx context.Context, url string, body io.Reader) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, "POST", url, body)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	return http.DefaultClient.Do(request)
}

// What is sent to the engine, in its own words.
func TestMapping(t *testing.T) {
	for _, row := range []struct {
		understand func([]byte) (*job, error)
		body, want string
	}{
		{readChat, `{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","name":"n","content":"u"},
			{"role":"assistant","content":null}],"tools":[],"tool_choice":"none","stop":["a","b"],"temperature":0,
			"top_p":1,"seed":5,"presence_penalty":1,"frequency_penalty":-1,"logit_bias":{"7":-100},"n":1,
			"logprobs":true,"max_tokens":3,"max_completion_tokens":4,"response_format":{"type":"text"},
			"metadata":{},"x":[{}]}`,
			`{"model":"m","maxTokens":4,"temperature":0,"topP":1,"presencePenalty":1,"frequencyPenalty":-1,
			"logitBias":{"7":-100},"seed":5,"stop":["a","b"],"logprobs":0,"messages":[{"role":"system","content":"s"},
			{"role":"user","content":"u","name":"n"},{"role":"assistant"}]}`},
		{readChat, `{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}],
			"temperature":null,"stop":null,"stream_options":null,
			"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object"}}}}`,
			`{"responseFormat":{"type":"jsonSchema","schema":{"type":"object"}},
			"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]}]}`},
		{readCompletion, `{"prompt":"p","stop":"x","seed":-1,"logprobs":3,"best_of":1,"echo":false,"suffix":null}`,
			`{"seed":9007199254740991,"stop":["x"],"logprobs":3,"prompt":"p"}`},
		{readCompletion, `{"prompt":[1,2]}`, `{"prompt":[1,2]}`},
		{readCompletion, `{"prompt":[[1,2]]}`, `{"prompt":[1,2]}`},
		{readCompletion, `{"prompt":["p"],"suffix":"s"}`, `{"prefix":"p","suffix":"s"}`},
	} {
		made, err := row.understand([]byte(row.body))
		if err != nil {
			t.Errorf("%s: %v", row.body, err)
			continue
		}
		got, err := json.Marshal(made.request)
		if err != nil {
			t.Fatal(err)
		}
		if want := strings.NewReplacer("\n", "", "\t", "").Replace(row.want); string(got) != want {
			t.Errorf("%s\n got %s\nwant %s", row.body, got, want)
		}
	}
}

func TestRefusals(t *testing.T) {
	chat := func(more string) string {
		return `{"messages":[{"role":"user","content":"x"}],` + more + `}`
	}
	for _, row := range []struct {
		understand  func([]byte) (*job, error)
		body, param string
	}{
		{readChat, `{`, ""},
		{readChat, `[]`, ""},
		{readChat, `{}`, "messages"},
		{readChat, chat(`"n":2`), "n"},
		{readChat, chat(`"n":0`), "n"},
		{readChat, chat(`"tools":[{"type":"function"}]`), "tools"},
		{readChat, chat(`"functions":[{}]`), "functions"},
		{readChat, chat(`"max_tokens":0`), "max_tokens"},
		{readChat, chat(`"max_tokens":1.5`), "max_tokens"},
		{readChat, chat(`"temperature":"hot"`), "temperature"},
		{readChat, chat(`"stop":5`), "stop"},
		{readChat, chat(`"stop":["a",5]`), "stop"},
		{readChat, chat(`"top_logprobs":5`), "top_logprobs"},
		{readChat, chat(`"response_format":{"type":"verse"}`), "response_format.type"},
		{readChat, `{"messages":[{"content":"x"}]}`, "messages[0].role"},
		{readChat, `{"messages":[{"role":"user","content":5}]}`, "messages[0].content"},
		{readChat, `{"messages":[{"role":"user","content":[{"type":"image_url"}]}]}`, "messages[0].content[0]"},
		{readChat, `{"messages":[{"role":"user"},{"role":"tool","content":"x"}]}`, "messages[1]"},
		{readChat, `{"messages":[{"role":"assistant","tool_calls":[{}]}]}`, "messages[0]"},
		{readCompletion, `{}`, "prompt"},
		{readCompletion, `{"prompt":["a","b"]}`, "prompt"},
		{readCompletion, `{"prompt":{}}`, "prompt"},
		{readCompletion, `{"prompt":[{}]}`, "prompt"},
		{readCompletion, `{"prompt":[1],"suffix":"x"}`, "prompt"},
		{readCompletion, `{"prompt":"x","echo":true}`, "echo"},
		{readCompletion, `{"prompt":"x","best_of":3}`, "best_of"},
		{readCompletion, `{"prompt":"x","n":3}`, "n"},
	} {
		_, err := row.understand([]byte(row.body))
		var refused *apiError
		if !errors.As(err, &refused) || refused.status != 400 || refused.Type != typeInvalid {
			t.Errorf("%s: %v", row.body, err)
			continue
		}
		param := ""
		if refused.Param != nil {
			param = *refused.Param
		}
		if param != row.param {
			t.Errorf("%s: param %q, not %q", row.body, param, row.param)
		}
	}
}

// Errors that no engine of a test gives.
func TestOtherErrors(t *testing.T) {
	for _, row := range []struct {
		err    error
		status int
		code   string
	}{
		{mlxstdio.ErrClosed, 503, "shutting_down"},
		{&mlxstdio.Error{Data: mlxstdio.ErrorData{Kind: mlxstdio.KindShuttingDown}}, 503, "shutting_down"},
		{&mlxstdio.Error{Data: mlxstdio.ErrorData{Kind: "ofALaterEngine"}}, 500, "ofALaterEngine"},
		{context.DeadlineExceeded, 504, "deadline_exceeded"},
		{io.ErrUnexpectedEOF, 502, "engine_error"},
	} {
		if got := errorOf(nil, row.err); got.status != row.status || *got.Code != row.code {
			t.Errorf("%v: status %d, %s", row.err, got.status, *got.Code)
		}
	}
}
