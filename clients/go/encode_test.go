package mlxstdio

import (
	"strings"
	"testing"
)

// Code and markup go out as they are: by the escapes of encoding/json, which are for web pages, a
// message that fits would be too long for the engine.
func TestNothingIsEscapedForWebPages(t *testing.T) {
	ctx := limited(t)
	c, p := connect(t, Options{})
	const text = "<a href='x'>&amp;</a>"
	for name, send := range map[string]func() error{
		"generate": func() error {
			_, err := c.Generate(ctx, &GenerateParams{Prompt: Prompt(text), Generation: Generation{Stop: []string{text}}})
			return err
		},
		"chat": func() error {
			_, err := c.Chat(ctx, &ChatParams{Messages: []ChatMessage{User(text), {Role: "user",
				Content: NewStringOrTextParts([]TextPart{{Type: TextPartTypeText, Text: text}})}}})
			return err
		},
		"stream": func() error {
			_, err := c.Stream(ctx, &InfillParams{Prefix: text, Suffix: text})
			return err
		},
		"call":   func() error { return c.Call(ctx, "any", []string{text, text}, nil) },
		"notify": func() error { return c.Notify(ctx, "any", []string{text, text}) },
	} {
		go func() { _ = send() }() // nobody answers
		line, err := p.lines.ReadString('\n')
		if err != nil || strings.Count(line, text) != 2 {
			t.Errorf("%s: sent %s, %v", name, line, err)
		}
	}
}
