package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// chat is one conversation, and the loop that carries it on.
type chat struct {
	client   *mlxstdio.Client
	settings *settings
	out      io.Writer
	notes    io.Writer
	meter    *meter
	prompt   string // empty where nobody sees it
	messages []mlxstdio.ChatMessage
}

// reset forgets all but how to behave.
func (c *chat) reset() {
	c.messages = nil
	if c.settings.system != "" {
		c.messages = []mlxstdio.ChatMessage{mlxstdio.System(c.settings.system)}
	}
}

// loop answers lines until there are no more, or none can be answered any more.
func (c *chat) loop(lines <-chan string, interrupts <-chan os.Signal) error {
	for {
		fmt.Fprint(c.notes, c.prompt)
		select {
		case line, more := <-lines:
			if !more {
				c.leavePrompt()
				return nil
			}
			switch line = strings.TrimSpace(line); {
			case line == "":
			case line == "/quit":
				return nil
			case line == "/reset":
				c.reset()
				c.meter.say("a new conversation")
			case strings.HasPrefix(line, "/"):
				c.meter.say("there are /reset and /quit; no %s", line)
			default:
				ctx, stop := until(interrupts)
				c.ask(ctx, line)
				stop()
			}
		case <-interrupts:
			c.leavePrompt()
			return nil
		case <-c.client.Done(): // it left, and starting it again was given up
			return c.client.Err()
		}
	}
}

// leavePrompt begins a line, for whatever the terminal shows after the chat.
func (c *chat) leavePrompt() {
	if c.prompt != "" {
		fmt.Fprintln(c.notes)
	}
}

// ask adds a question and its answer to the conversation. What was shown stays in it, also of an
// answer that was cut short; a question without any answer does not, as it may be asked again.
func (c *chat) ask(ctx context.Context, question string) {
	messages := append(slices.Clip(c.messages), mlxstdio.User(question))
	text, result, err := c.stream(ctx, messages)
	if text != "" {
		fmt.Fprintln(c.out)
		c.messages = append(messages, mlxstdio.Assistant(text))
	}
	switch {
	case err == nil:
		if c.settings.verbose {
			c.meter.say("%s", speed(result))
		}
	case ctx.Err() != nil:
		c.meter.say("cancelled")
	case errors.Is(err, mlxstdio.KindContextLengthExceeded):
		c.meter.say("%s; /reset begins a new conversation", brief(err))
	default:
		c.meter.say("%s", brief(err))
	}
}

// stream shows an answer as it comes. The text is what was shown of it, also with an error.
func (c *chat) stream(ctx context.Context, messages []mlxstdio.ChatMessage) (string, *mlxstdio.Result, error) {
	stream, err := c.client.Stream(ctx, &mlxstdio.ChatParams{
		Messages: messages,
		Generation: mlxstdio.Generation{
			Model:       c.settings.model,
			MaxTokens:   c.settings.maxTokens,
			Temperature: c.settings.temperature,
		},
	}, mlxstdio.OnProgress(c.meter.show))
	if err != nil {
		return "", nil, err
	}
	defer stream.Close()
	var said strings.Builder
	for delta, err := range stream.Deltas() {
		if err != nil {
			break // Result has it too
		}
		if delta.Channel != mlxstdio.ChannelContent {
			continue // a later engine's reasoning is no part of the answer
		}
		c.meter.clear()
		said.WriteString(delta.Text)
		_, _ = io.WriteString(c.out, delta.Text)
	}
	if stream.Retries() > 0 {
		c.meter.say("the question was asked again, as the engine had left")
	}
	result, err := stream.Result()
	return said.String(), result, err
}

func speed(result *mlxstdio.Result) string {
	text := fmt.Sprintf("%d tokens", result.Usage.CompletionTokens)
	if rate := result.Timings.TokensPerSecond; rate != nil { // there is none for a single token
		text += fmt.Sprintf(", %.1f tokens/s", *rate)
	}
	if result.FinishReason == mlxstdio.FinishReasonLength {
		text += ", cut at the longest"
	}
	return text
}

// brief is an error's first line: what follows it, such as the engine's last words, is for a log.
func brief(err error) string {
	first, _, _ := strings.Cut(err.Error(), "\n")
	return first
}

// lines reads ahead by one line, so that the loop can wait for a line, a signal and the engine at
// once. A line may be of any length.
func lines(in io.Reader) <-chan string {
	found := make(chan string)
	go func() {
		defer close(found)
		reader := bufio.NewReader(in)
		for {
			line, err := reader.ReadString('\n')
			if line != "" {
				found <- line
			}
			if err != nil {
				return
			}
		}
	}()
	return found
}
