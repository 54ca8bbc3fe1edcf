package main

import (
	"context"
	"strings"
	"sync"
	"unicode/utf8"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// tokenNames finds the texts of tokens: the engine's scores have ids, OpenAI's have texts. Some
// tokenizers write a token differently at the start of a text, so a text here may lack its space.
type tokenNames struct {
	client *mlxstdio.Client

	mu    sync.Mutex
	known map[tokenOf]string
}

type tokenOf struct {
	model string
	token int64
}

// So many are remembered; then it begins anew.
const mostTokenNames = 1 << 16

func newTokenNames(client *mlxstdio.Client) *tokenNames {
	return &tokenNames{client: client, known: map[tokenOf]string{}}
}

func (n *tokenNames) name(ctx context.Context, model string, token int64) (string, error) {
	key := tokenOf{model, token}
	n.mu.Lock()
	text, ok := n.known[key]
	n.mu.Unlock()
	if ok {
		return text, nil
	}
	result, err := n.client.Detokenize(ctx, &mlxstdio.DetokenizeParams{Model: model, Tokens: []int64{token}})
	if err != nil {
		return "", err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.known) >= mostTokenNames {
		clear(n.known)
	}
	n.known[key] = result.Text
	return result.Text, nil
}

// score is a row of a chat's logprobs.
type score struct {
	Token   string   `json:"token"`
	Logprob float64  `json:"logprob"`
	Bytes   []int    `json:"bytes"` // null for a part of a character
	Top     *[]score `json:"top_logprobs,omitempty"`
}

type chatScores struct {
	Content []score `json:"content"`
}

// completionScores are the older API's.
type completionScores struct {
	Tokens        []string             `json:"tokens"`
	TokenLogprobs []float64            `json:"token_logprobs"`
	TopLogprobs   []map[string]float64 `json:"top_logprobs"`
	TextOffset    []int                `json:"text_offset"`
}

// scores are the logprobs in the form of the request's API; nil, which is null, without any.
func (n *tokenNames) scores(ctx context.Context, to *answers, given []mlxstdio.TokenLogprobs) (any, error) {
	if len(given) == 0 {
		return nil, nil
	}
	rows := make([]score, 0, len(given))
	for _, one := range given {
		row, err := n.score(ctx, to.model, one.Token, one.Logprob)
		if err != nil {
			return nil, err
		}
		top := make([]score, 0, len(one.Top))
		for _, other := range one.Top {
			candidate, err := n.score(ctx, to.model, other.Token, other.Logprob)
			if err != nil {
				return nil, err
			}
			top = append(top, candidate)
		}
		row.Top = &top
		rows = append(rows, row)
	}
	if to.chat {
		return chatScores{rows}, nil
	}
	return legacy(to, rows), nil
}

func (n *tokenNames) score(ctx context.Context, model string, token int64, logprob float64) (score, error) {
	text, err := n.name(ctx, model, token)
	made := score{Token: text, Logprob: logprob}
	if !strings.ContainsRune(text, utf8.RuneError) {
		made.Bytes = []int{} // a []byte would become base64
		for _, char := range []byte(text) {
			made.Bytes = append(made.Bytes, int(char))
		}
	}
	return made, err
}

func legacy(to *answers, rows []score) completionScores {
	var made completionScores
	for _, row := range rows {
		top := map[string]float64{}
		for _, other := range *row.Top {
			top[other.Token] = other.Logprob
		}
		made.Tokens = append(made.Tokens, row.Token)
		made.TokenLogprobs = append(made.TokenLogprobs, row.Logprob)
		made.TopLogprobs = append(made.TopLogprobs, top)
		made.TextOffset = append(made.TextOffset, to.offset)
		to.offset += utf8.RuneCountInString(row.Token)
	}
	return made
}
