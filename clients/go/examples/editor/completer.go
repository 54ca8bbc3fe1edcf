package main

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// The text of a suggestion is short, as it is read at a glance, and ends at a blank line.
const blankLine = "\n\n"

// Completer has one suggestion for the text around the cursor: the latest text, and none other.
//
// Each edit makes a suggestion of its own, cancels the request of the one before, and asks anew when
// no further edit has come for a while. A request writes into its own suggestion only, so that
// whatever still arrives for an older text reaches nothing that is looked at.
//
// All methods may be called from any goroutine.
type Completer struct {
	client    *mlxstdio.Client
	debounce  time.Duration
	maxTokens int64
	redraw    func()

	mu     sync.Mutex
	latest *suggestion
}

// suggestion is for one text.
type suggestion struct {
	cancel context.CancelFunc
	over   chan struct{} // closed when its request has ended, or was never made

	mu   sync.Mutex
	text strings.Builder
	err  error
}

// NewCompleter asks a client. The function, unless nil, is called by a goroutine of the completer
// when the suggestion has grown, which [Completer.Suggestion] then gives; it carries no text, so
// that it cannot carry an old one.
func NewCompleter(client *mlxstdio.Client, debounce time.Duration, maxTokens int64, redraw func()) *Completer {
	none := &suggestion{cancel: func() {}, over: make(chan struct{})}
	close(none.over)
	if redraw == nil {
		redraw = func() {}
	}
	return &Completer{client: client, debounce: debounce, maxTokens: maxTokens, redraw: redraw, latest: none}
}

// Edit tells the text after a keystroke, on both sides of the cursor. It does not wait.
func (c *Completer) Edit(prefix, suffix string) {
	ctx, cancel := context.WithCancel(context.Background())
	made := &suggestion{cancel: cancel, over: make(chan struct{})}
	before := c.replace(made)
	go func() {
		defer close(made.over)
		defer cancel()
		<-before.over // at once, as it was cancelled: so only one request runs at any time
		if wait(ctx, c.debounce) == nil {
			c.ask(ctx, made, prefix, suffix)
		}
	}()
}

// replace cancels the latest suggestion, and has another in its place.
func (c *Completer) replace(by *suggestion) (before *suggestion) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before, c.latest = c.latest, by
	before.cancel()
	return before
}

func (c *Completer) ask(ctx context.Context, s *suggestion, prefix, suffix string) {
	stream, err := c.client.Stream(ctx, &mlxstdio.InfillParams{
		Prefix: prefix,
		Suffix: suffix,
		Generation: mlxstdio.Generation{
			MaxTokens:   c.maxTokens,
			Temperature: mlxstdio.Ptr(0.0), // the same text has the same suggestion
			Stop:        []string{blankLine},
			Priority:    mlxstdio.PriorityInteractive,
		},
	})
	if err != nil {
		s.fail(err)
		return
	}
	defer stream.Close()
	for delta, err := range stream.Deltas() {
		if err != nil {
			s.fail(err)
			return
		}
		if delta.Channel != mlxstdio.ChannelContent {
			continue // a later engine's reasoning is no part of the text
		}
		s.add(delta.Text)
		if ctx.Err() == nil {
			c.redraw()
		}
	}
}

// Suggestion is what may be shown at this moment; it may still grow.
func (c *Completer) Suggestion() string {
	text, _ := c.current().content()
	return text
}

// Wait waits until the suggestion for the latest text is whole. While the user types it stays with
// the latest.
func (c *Completer) Wait(ctx context.Context) (string, error) {
	for {
		s := c.current()
		select {
		case <-s.over:
		case <-ctx.Done():
			return "", ctx.Err()
		}
		if s == c.current() {
			return s.content()
		}
	}
}

// Close cancels what is asked, and waits for its end. The client stays open.
func (c *Completer) Close() {
	none := &suggestion{cancel: func() {}, over: make(chan struct{})}
	close(none.over)
	<-c.replace(none).over
}

func (c *Completer) current() *suggestion {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.latest
}

func (s *suggestion) add(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.WriteString(text)
}

// fail is for the status line of an editor. What there was of the text is as good as before.
func (s *suggestion) fail(err error) {
	if errors.Is(err, context.Canceled) {
		return // by the next keystroke
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.err = err
}

func (s *suggestion) content() (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String(), s.err
}

// wait passes some time, unless the context ends before.
func wait(ctx context.Context, span time.Duration) error {
	timer := time.NewTimer(span)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err()
	case <-ctx.Done():
		return ctx.Err()
	}
}
