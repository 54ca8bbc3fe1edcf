package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// job is a request of either API, in the engine's terms.
type job struct {
	request    mlxstdio.GenerationRequest
	generation *mlxstdio.Generation // that of the request
	chat       bool
	stream     bool
	usage      bool              // wanted at the end of a stream
	params     map[string]string // the engine's name of a param to OpenAI's, where it is another word
}

// shared is what both APIs have. Members that stand in neither are passed over, as OpenAI's clients
// send many that mean nothing here.
type shared struct {
	Model            string            `json:"model"`
	Stream           bool              `json:"stream"`
	StreamOptions    streamOptions     `json:"stream_options"`
	MaxTokens        *int64            `json:"max_tokens"`
	Temperature      *float64          `json:"temperature"`
	TopP             *float64          `json:"top_p"`
	Seed             *int64            `json:"seed"`
	PresencePenalty  *float64          `json:"presence_penalty"`
	FrequencyPenalty *float64          `json:"frequency_penalty"`
	LogitBias        map[int64]float64 `json:"logit_bias"`
	Stop             json.RawMessage   `json:"stop"`
	N                *int64            `json:"n"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// Seeds of the protocol are those that every JSON reader keeps exact.
const maxSeed = 1<<53 - 1

// generation takes over what the engine knows by another name, and leaves to it what it can check
// itself. The most tokens are its default of 512 where the client says nothing.
func (s *shared) generation(most *int64, mostName string) (mlxstdio.Generation, error) {
	g := mlxstdio.Generation{Model: s.Model, Temperature: s.Temperature, TopP: s.TopP,
		PresencePenalty: s.PresencePenalty, FrequencyPenalty: s.FrequencyPenalty, LogitBias: s.LogitBias}
	if s.N != nil && *s.N != 1 {
		return g, refuse("n", "unsupported_value", "n has to be 1: there is one choice a request")
	}
	if most != nil {
		if *most < 1 {
			return g, refuse(mostName, "invalid_value", "%s has to be 1 or more", mostName)
		}
		g.MaxTokens = *most
	}
	if s.Seed != nil {
		g.Seed = ptr(*s.Seed & maxSeed) // OpenAI's may be negative
	}
	stop, err := oneOrMore(s.Stop)
	if err != nil {
		return g, refuse("stop", "invalid_type", "stop has to be a string or a list of strings")
	}
	g.Stop = stop
	return g, nil
}

// decode reads a body, and tells which member is of the wrong type.
func decode(body []byte, into any) error {
	err := json.Unmarshal(body, into)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		field := strings.TrimPrefix(kind.Field, "shared.")
		return refuse(field, "invalid_type", "%q is no %s", field, kind.Type)
	}
	if err != nil {
		return refuse("", "", "the body is no JSON: %v", err)
	}
	return nil
}

// absent tells whether a member was left out, or null.
func absent(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

// isEmpty is that of a list too.
func isEmpty(raw json.RawMessage) bool {
	var list []json.RawMessage
	return absent(raw) || json.Unmarshal(raw, &list) == nil && len(list) == 0
}

func oneOrMore(raw json.RawMessage) ([]string, error) {
	if absent(raw) {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var more []string
	err := json.Unmarshal(raw, &more)
	return more, err
}

func refuse(param, code, format string, values ...any) *apiError {
	refused := &apiError{status: 400, Type: typeInvalid, Message: fmt.Sprintf(format, values...)}
	if param != "" {
		refused.Param = &param
	}
	if code != "" {
		refused.Code = &code
	}
	return refused
}

func ptr[T any](value T) *T { return &value }
