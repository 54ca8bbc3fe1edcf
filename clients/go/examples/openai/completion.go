package main

import (
	"encoding/json"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// completionRequest is the body of POST /v1/completions.
type completionRequest struct {
	shared
	Prompt   json.RawMessage `json:"prompt"`
	Suffix   *string         `json:"suffix"`
	Logprobs *int64          `json:"logprobs"`
	Echo     bool            `json:"echo"`
	BestOf   *int64          `json:"best_of"`
}

func readCompletion(body []byte) (*job, error) {
	var asked completionRequest
	if err := decode(body, &asked); err != nil {
		return nil, err
	}
	if asked.Echo {
		return nil, refuse("echo", "unsupported_value", "echo is not supported")
	}
	if asked.BestOf != nil && *asked.BestOf != 1 {
		return nil, refuse("best_of", "unsupported_value", "best_of has to be 1")
	}
	generation, err := asked.generation(asked.MaxTokens, "max_tokens")
	if err != nil {
		return nil, err
	}
	generation.Logprobs = asked.Logprobs
	prompt, err := onePrompt(asked.Prompt)
	if err != nil {
		return nil, err
	}
	made := &job{stream: asked.Stream, usage: asked.StreamOptions.IncludeUsage,
		params: map[string]string{"prefix": "prompt"}}
	if asked.Suffix == nil || *asked.Suffix == "" {
		params := &mlxstdio.GenerateParams{Generation: generation, Prompt: prompt}
		made.request, made.generation = params, &params.Generation
		return made, nil
	}
	prefix, ok := prompt.Value().(string)
	if !ok {
		return nil, refuse("prompt", "unsupported_value", "with a suffix, the prompt has to be a string")
	}
	params := &mlxstdio.InfillParams{Generation: generation, Prefix: prefix, Suffix: *asked.Suffix}
	made.request, made.generation = params, &params.Generation
	return made, nil
}

// onePrompt is a text or tokens; OpenAI's lists of prompts may have one of either.
func onePrompt(raw json.RawMessage) (mlxstdio.StringOrIntegers, error) {
	var none mlxstdio.StringOrIntegers
	if absent(raw) {
		return none, refuse("prompt", "missing_required_parameter", "there is no prompt")
	}
	var text string
	if json.Unmarshal(raw, &text) == nil {
		return mlxstdio.Prompt(text), nil
	}
	var tokens []int64
	if json.Unmarshal(raw, &tokens) == nil {
		return mlxstdio.PromptTokens(tokens), nil
	}
	var list []json.RawMessage
	if json.Unmarshal(raw, &list) != nil {
		return none, refuse("prompt", "invalid_type", "prompt has to be a string or a list of tokens")
	}
	if len(list) != 1 {
		return none, refuse("prompt", "unsupported_value", "there is one prompt a request")
	}
	if json.Unmarshal(list[0], &text) == nil {
		return mlxstdio.Prompt(text), nil
	}
	if json.Unmarshal(list[0], &tokens) == nil {
		return mlxstdio.PromptTokens(tokens), nil
	}
	return none, refuse("prompt", "invalid_type", "prompt has to be a string or a list of tokens")
}
