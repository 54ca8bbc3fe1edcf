package thirdparty

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"
)

// built is the example program of the client's module, made once for all tests.
var built struct {
	sync.Once
	folder, program string
	err             error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.folder != "" {
		os.RemoveAll(built.folder)
	}
	os.Exit(code)
}

func buildFront(t *testing.T) string {
	t.Helper()
	built.Do(func() {
		if built.folder, built.err = os.MkdirTemp("", "openai-front"); built.err != nil {
			return
		}
		built.program = filepath.Join(built.folder, "front")
		build := exec.Command("go", "build", "-o", built.program, "./examples/openai")
		build.Dir = ".."
		if output, err := build.CombinedOutput(); err != nil {
			built.err = errors.New(string(output))
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.program
}

// front runs the program on a port of its own, with an engine, and gives OpenAI's client for it.
func front(t *testing.T, flags []string, engineArgs ...string) (context.Context, openai.Client) {
	t.Helper()
	words := command(t)
	args := append([]string{"-addr", "127.0.0.1:0", "-engine", words[0]}, flags...)
	args = append(append(append(args, "--"), words[1:]...), engineArgs...)
	server := exec.Command(buildFront(t), args...)
	var log bytes.Buffer
	server.Stderr = &log
	stdout, err := server.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(func() {
		cancel()
		server.Process.Signal(syscall.SIGTERM)
		if err := server.Wait(); err != nil {
			t.Errorf("the front left with: %v", err)
		}
		if t.Failed() {
			t.Logf("its log: %s", log.Bytes())
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Fatalf("%v after %q", err, line)
	}
	return ctx, openai.NewClient(option.WithBaseURL(url+"/v1/"), option.WithAPIKey("none"))
}

// frontWithScript runs it with the fake engine.
func frontWithScript(t *testing.T, script object, engineArgs ...string) (context.Context, openai.Client) {
	t.Helper()
	data, err := json.Marshal(script)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "script.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return front(t, nil, append([]string{"fake", "--script", file}, engineArgs...)...)
}

func question() openai.ChatCompletionNewParams {
	return openai.ChatCompletionNewParams{
		Model: "pico",
		Messages: []openai.ChatCompletionMessageParamUnion{
			openai.DeveloperMessage("Write Python."),
			openai.UserMessage("hello"),
		},
		MaxCompletionTokens: openai.Int(12),
		Temperature:         openai.Float(0.8),
		TopP:                openai.Float(0.95),
		Seed:                openai.Int(7),
		Logprobs:            openai.Bool(true),
		TopLogprobs:         openai.Int(2),
	}
}

func TestOpenAIChat(t *testing.T) {
	ctx, client := front(t, nil)
	whole, err := client.Chat.Completions.New(ctx, question())
	if err != nil {
		t.Fatal(err)
	}
	first := whole.Choices[0]
	if first.Message.Content == "" || first.FinishReason != "length" || whole.Usage.CompletionTokens != 12 ||
		whole.Model != "pico" || len(first.Logprobs.Content) != 12 || len(first.Logprobs.Content[0].TopLogprobs) != 2 {
		t.Errorf("whole: %s", whole.RawJSON())
	}

	params := question()
	params.StreamOptions.IncludeUsage = openai.Bool(true)
	stream := client.Chat.Completions.NewStreaming(ctx, params)
	defer stream.Close()
	var sum openai.ChatCompletionAccumulator
	chunks := 0
	for ; stream.Next(); chunks++ {
		if !sum.AddChunk(stream.Current()) {
			t.Errorf("a chunk of something else: %s", stream.Current().RawJSON())
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if len(sum.Choices) != 1 {
		t.Fatalf("%d chunks: %+v", chunks, sum)
	}
	joined := sum.Choices[0]
	if chunks < 5 || joined.Message.Content != first.Message.Content || joined.Message.Role != "assistant" ||
		joined.FinishReason != "length" || sum.Usage.TotalTokens != whole.Usage.TotalTokens {
		t.Errorf("%d chunks: %q, %+v; whole: %q", chunks, joined.Message.Content, sum.Usage, first.Message.Content)
	}
}

func TestOpenAICompletions(t *testing.T) {
	ctx, client := front(t, nil)
	params := openai.CompletionNewParams{
		Model:       "pico",
		Prompt:      openai.CompletionNewParamsPromptUnion{OfString: openai.String("def add(a, b):")},
		MaxTokens:   openai.Int(12),
		Temperature: openai.Float(0),
		Stop:        openai.CompletionNewParamsStopUnion{OfStringArray: []string{"\n\n\n"}},
		LogitBias:   map[string]int64{"14": -1},
	}
	whole, err := client.Completions.New(ctx, params)
	if err != nil {
		t.Fatal(err)
	}
	stream := client.Completions.NewStreaming(ctx, params)
	defer stream.Close()
	var text strings.Builder
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text.WriteString(choice.Text)
		}
	}
	if err := stream.Err(); err != nil {
		t.Fatal(err)
	}
	if got := whole.Choices[0].Text; got == "" || got != text.String() || whole.Usage.CompletionTokens == 0 {
		t.Errorf("streamed %q, whole: %s", text.String(), whole.RawJSON())
	}

	params.Suffix = openai.String("\n    return c")
	if filled, err := client.Completions.New(ctx, params); err != nil || filled.Choices[0].Text == "" {
		t.Errorf("infill: %v, %v", filled, err)
	}
}

func TestOpenAIModels(t *testing.T) {
	ctx, client := front(t, nil)
	page, err := client.Models.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if len(page.Data) == 0 || page.Data[0].ID != "pico" || page.Data[0].OwnedBy == "" {
		t.Errorf("models: %s", page.RawJSON())
	}
	one, err := client.Models.Get(ctx, "pico")
	if err != nil || one.ID != "pico" {
		t.Errorf("model: %v, %v", one, err)
	}
	_, err = client.Models.Get(ctx, "gpt-4o")
	refused(t, err, 404, "model_not_found", "model")
}

// refused checks that an error is OpenAI's own, with these members.
func refused(t *testing.T, err error, status int, code, param string) {
	t.Helper()
	var told *openai.Error
	if !errors.As(err, &told) || told.StatusCode != status || told.Code != code || told.Param != param {
		t.Errorf("got %v (%+v), want status %d, %s, %s", err, told, status, code, param)
	}
}

func TestOpenAIErrors(t *testing.T) {
	ctx, client := front(t, nil)
	for _, row := range []struct {
		change      func(*openai.ChatCompletionNewParams)
		status      int
		code, param string
	}{
		{func(p *openai.ChatCompletionNewParams) { p.N = openai.Int(2) }, 400, "unsupported_value", "n"},
		{func(p *openai.ChatCompletionNewParams) { p.TopP = openai.Float(2) }, 400, "invalid_value", "top_p"},
		{func(p *openai.ChatCompletionNewParams) { p.Model = "gpt-4o" }, 404, "model_not_found", "model"},
		{func(p *openai.ChatCompletionNewParams) {
			p.Messages = append(p.Messages, openai.UserMessage(strings.Repeat("word ", 4000)))
		}, 400, "context_length_exceeded", "messages"},
		{func(p *openai.ChatCompletionNewParams) {
			p.Tools = append(p.Tools, openai.ChatCompletionFunctionTool(openai.FunctionDefinitionParam{Name: "f"}))
		}, 400, "unsupported_parameter", "tools"},
	} {
		params := question()
		row.change(&params)
		_, err := client.Chat.Completions.New(ctx, params)
		refused(t, err, row.status, row.code, row.param)
		stream := client.Chat.Completions.NewStreaming(ctx, params)
		if stream.Next() {
			t.Errorf("a chunk in place of %s", row.code)
		}
		refused(t, stream.Err(), row.status, row.code, row.param)
		stream.Close()
	}
}

// What the client's own retries make of an engine that is busy twice, and of one that has no memory.
func TestOpenAIRetries(t *testing.T) {
	failing := func(prompt, kind string, times int, data object) object {
		step := object{"error": object{"kind": kind, "message": "why", "data": data}}
		return object{"method": "chat", "times": times, "steps": []any{step},
			"params": object{"messages": []any{object{"role": "user", "content": prompt}}}}
	}
	ctx, client := frontWithScript(t, object{"rules": []any{
		failing("busy", "overloaded", 2, object{"retryAfterMs": 20}),
		failing("large", "outOfMemory", 1, object{}), // a second request would be answered
	}})
	ask := func(text string) (*openai.ChatCompletion, error) {
		return client.Chat.Completions.New(ctx, openai.ChatCompletionNewParams{Model: "fake",
			Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(text)}})
	}
	if got, err := ask("busy"); err != nil || got.Choices[0].Message.Content != "busy" {
		t.Errorf("busy: %v, %v", got, err)
	}
	_, err := ask("large")
	refused(t, err, 507, "out_of_memory", "")
}

func TestOpenAIErrorInMidStream(t *testing.T) {
	ctx, client := frontWithScript(t, object{"rules": []any{object{"method": "chat", "times": 1, "steps": []any{
		object{"delta": "one "}, object{"delta": "two"}, object{"signal": "SIGKILL"},
	}}}})
	params := question()
	params.Model = "fake"
	stream := client.Chat.Completions.NewStreaming(ctx, params)
	defer stream.Close()
	var text strings.Builder
	for stream.Next() {
		for _, choice := range stream.Current().Choices {
			text.WriteString(choice.Delta.Content)
		}
	}
	if err := stream.Err(); err == nil || !strings.Contains(err.Error(), "engine_exit") {
		t.Errorf("the stream ended with: %v", err)
	}
	if text.String() != "one two" {
		t.Errorf("text %q", text.String())
	}
}

// The engine has one place, and what is cancelled would keep it for minutes.
func TestOpenAICancelByContext(t *testing.T) {
	ctx, client := frontWithScript(t, object{"tokenMs": 200}, "--max-concurrent", "1")
	long := openai.CompletionNewParams{Model: "fake", MaxTokens: openai.Int(4000),
		Prompt: openai.CompletionNewParamsPromptUnion{OfString: openai.String(strings.Repeat("word ", 600))}}
	limited, cancel := context.WithCancel(ctx)
	defer cancel()
	stream := client.Completions.NewStreaming(limited, long)
	for stream.Next() {
		if len(stream.Current().Choices) > 0 && stream.Current().Choices[0].Text != "" {
			cancel()
		}
	}
	if err := stream.Err(); !errors.Is(err, context.Canceled) {
		t.Errorf("the stream ended with: %v", err)
	}
	short := long
	short.Prompt.OfString = openai.String("hi")
	if got, err := client.Completions.New(ctx, short); err != nil || got.Choices[0].Text != "hi" {
		t.Errorf("after it: %v, %v", got, err)
	}
}
