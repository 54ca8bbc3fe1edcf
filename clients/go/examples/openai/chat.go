package main

import (
	"encoding/json"
	"fmt"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// chatRequest is the body of POST /v1/chat/completions.
type chatRequest struct {
	shared
	Messages            []chatMessage   `json:"messages"`
	MaxCompletionTokens *int64          `json:"max_completion_tokens"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *int64          `json:"top_logprobs"`
	ResponseFormat      *responseFormat `json:"response_format"`
	Tools               json.RawMessage `json:"tools"`
	Functions           json.RawMessage `json:"functions"`
}

type chatMessage struct {
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	Name      *string         `json:"name"`
	ToolCalls json.RawMessage `json:"tool_calls"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema struct {
		Schema map[string]any `json:"schema"`
	} `json:"json_schema"`
}

func readChat(body []byte) (*job, error) {
	var asked chatRequest
	if err := decode(body, &asked); err != nil {
		return nil, err
	}
	if !isEmpty(asked.Tools) {
		return nil, refuse("tools", "unsupported_parameter", "tools are not supported")
	}
	if !isEmpty(asked.Functions) {
		return nil, refuse("functions", "unsupported_parameter", "functions are not supported")
	}
	most, mostName := asked.MaxTokens, "max_tokens"
	if asked.MaxCompletionTokens != nil {
		most, mostName = asked.MaxCompletionTokens, "max_completion_tokens"
	}
	generation, err := asked.generation(most, mostName)
	if err != nil {
		return nil, err
	}
	if asked.Logprobs {
		generation.Logprobs = ptr(int64(0))
		if asked.TopLogprobs != nil {
			generation.Logprobs = asked.TopLogprobs
		}
	} else if asked.TopLogprobs != nil {
		return nil, refuse("top_logprobs", "invalid_value", "top_logprobs needs logprobs to be true")
	}
	if generation.ResponseFormat, err = asked.ResponseFormat.form(); err != nil {
		return nil, err
	}
	messages, err := turns(asked.Messages)
	if err != nil {
		return nil, err
	}
	params := &mlxstdio.ChatParams{Generation: generation, Messages: messages}
	return &job{request: params, generation: &params.Generation, chat: true, stream: asked.Stream,
		usage:  asked.StreamOptions.IncludeUsage,
		params: map[string]string{"maxTokens": mostName, "logprobs": "top_logprobs"}}, nil
}

// form hands on what the engine may be able to do some day; until then it answers `unsupported`.
func (f *responseFormat) form() (*mlxstdio.ResponseFormat, error) {
	if f == nil || f.Type == "text" {
		return nil, nil
	}
	switch f.Type {
	case "json_object":
		return &mlxstdio.ResponseFormat{Type: mlxstdio.ResponseFormatTypeJSON}, nil
	case "json_schema":
		return &mlxstdio.ResponseFormat{Type: mlxstdio.ResponseFormatTypeJSONSchema,
			Schema: f.JSONSchema.Schema}, nil
	}
	return nil, refuse("response_format.type", "invalid_value", "there is no response format %q", f.Type)
}

// turns are the messages in the engine's terms. Which roles there are is the template's affair, but
// `developer` is OpenAI's newer word for `system`, which templates do not know.
func turns(given []chatMessage) ([]mlxstdio.ChatMessage, error) {
	if len(given) == 0 {
		return nil, refuse("messages", "invalid_value", "messages has to have at least one message")
	}
	made := make([]mlxstdio.ChatMessage, 0, len(given))
	for at, one := range given {
		where := fmt.Sprintf("messages[%d]", at)
		role := one.Role
		switch {
		case role == "":
			return nil, refuse(where+".role", "missing_required_parameter", "%s has no role", where)
		case role == "tool", role == "function", !isEmpty(one.ToolCalls):
			return nil, refuse(where, "unsupported_value", "tools are not supported")
		case role == "developer":
			role = "system"
		}
		content, err := content(one.Content, where+".content")
		if err != nil {
			return nil, err
		}
		made = append(made, mlxstdio.ChatMessage{Role: role, Content: content, Name: one.Name})
	}
	return made, nil
}

// content is a text, or parts of text; images and sounds are refused.
func content(raw json.RawMessage, where string) (mlxstdio.StringOrTextParts, error) {
	var none mlxstdio.StringOrTextParts
	if absent(raw) {
		return none, nil
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return mlxstdio.NewStringOrTextParts(text), nil
	}
	var given []struct{ Type, Text string }
	if json.Unmarshal(raw, &given) != nil {
		return none, refuse(where, "invalid_type", "%s has to be a string or a list of parts", where)
	}
	parts := make([]mlxstdio.TextPart, 0, len(given))
	for at, one := range given {
		if one.Type != "text" {
			return none, refuse(fmt.Sprintf("%s[%d]", where, at), "unsupported_value",
				"parts of type %q are not supported", one.Type)
		}
		parts = append(parts, mlxstdio.TextPart{Type: mlxstdio.TextPartTypeText, Text: one.Text})
	}
	return mlxstdio.NewStringOrTextParts(parts), nil
}
