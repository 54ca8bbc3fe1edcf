package main

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// answer is OpenAI's object of either API, whole or a chunk of a stream.
type answer struct {
	ID          string          `json:"id"`
	Object      string          `json:"object"`
	Created     int64           `json:"created"`
	Model       string          `json:"model"`
	Fingerprint string          `json:"system_fingerprint"`
	Choices     []choice        `json:"choices"`
	Usage       json.RawMessage `json:"usage,omitempty"`
}

// choice has a message or a text, or in a stream a delta or a text.
type choice struct {
	Index        int      `json:"index"`
	Message      *message `json:"message,omitempty"`
	Delta        *message `json:"delta,omitempty"`
	Text         *string  `json:"text,omitempty"`
	Logprobs     any      `json:"logprobs"`
	FinishReason *string  `json:"finish_reason"`
}

type message struct {
	Role    string  `json:"role,omitempty"`
	Content *string `json:"content,omitempty"`
}

type usage struct {
	PromptTokens     int64         `json:"prompt_tokens"`
	CompletionTokens int64         `json:"completion_tokens"`
	TotalTokens      int64         `json:"total_tokens"`
	PromptDetails    promptDetails `json:"prompt_tokens_details"`
}

type promptDetails struct {
	CachedTokens int64 `json:"cached_tokens"`
}

// answers makes the objects of one request.
type answers struct {
	chat      bool
	wantUsage bool
	id        string
	created   int64
	model     string
	build     string // with a seed, the same build gives the same text
	offset    int    // of the next token in the text, in characters
}

func newAnswers(f *front, todo *job) *answers {
	server := f.client.Server()
	to := &answers{chat: todo.chat, wantUsage: todo.usage, created: time.Now().Unix(),
		model: todo.generation.Model, build: "mlx-stdio-" + server.ServerInfo.Version,
		id: "cmpl-" + rand.Text()}
	if to.chat {
		to.id = "chat" + to.id
	}
	if to.model == "" {
		to.model = server.DefaultModel
	}
	return to
}

func (a *answers) make(kind string, choices ...choice) *answer {
	if choices == nil {
		choices = []choice{} // no null
	}
	return &answer{ID: a.id, Object: kind, Created: a.created, Model: a.model, Fingerprint: a.build,
		Choices: choices}
}

func (a *answers) whole(result *mlxstdio.Result, scores any) *answer {
	reason := finishReason(result)
	if a.chat {
		made := a.make("chat.completion", choice{Logprobs: scores, FinishReason: &reason,
			Message: &message{Role: "assistant", Content: &result.Text}})
		made.Usage = usageOf(result)
		return made
	}
	made := a.make("text_completion", choice{Text: &result.Text, Logprobs: scores, FinishReason: &reason})
	made.Usage = usageOf(result)
	return made
}

// chunk has `usage: null` in all but the last one where the client asked for usage, as OpenAI's do.
func (a *answers) chunk(one choice) *answer {
	kind := "text_completion"
	if a.chat {
		kind = "chat.completion.chunk"
	}
	made := a.make(kind, one)
	if a.wantUsage {
		made.Usage = json.RawMessage("null")
	}
	return made
}

// opening is the chunk that comes first in a chat; nil elsewhere.
func (a *answers) opening() *answer {
	if !a.chat {
		return nil
	}
	return a.chunk(choice{Delta: &message{Role: "assistant", Content: ptr("")}})
}

func (a *answers) piece(text string, scores any) *answer {
	if a.chat {
		return a.chunk(choice{Delta: &message{Content: &text}, Logprobs: scores})
	}
	return a.chunk(choice{Text: &text, Logprobs: scores})
}

func (a *answers) last(result *mlxstdio.Result) *answer {
	reason := finishReason(result)
	if a.chat {
		return a.chunk(choice{Delta: &message{}, FinishReason: &reason})
	}
	return a.chunk(choice{Text: ptr(""), FinishReason: &reason})
}

func (a *answers) usage(result *mlxstdio.Result) *answer {
	made := a.chunk(choice{})
	made.Choices = []choice{}
	made.Usage = usageOf(result)
	return made
}

func finishReason(result *mlxstdio.Result) string {
	if result.FinishReason == mlxstdio.FinishReasonToolCalls {
		return "tool_calls"
	}
	return string(result.FinishReason)
}

func usageOf(result *mlxstdio.Result) json.RawMessage {
	from := result.Usage
	data, _ := json.Marshal(usage{PromptTokens: from.PromptTokens, CompletionTokens: from.CompletionTokens,
		TotalTokens:   from.PromptTokens + from.CompletionTokens,
		PromptDetails: promptDetails{CachedTokens: from.CachedTokens}})
	return data
}

func writeJSON(w http.ResponseWriter, status int, value any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(value) // who is gone needs no answer
}
