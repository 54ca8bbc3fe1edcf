package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"
)

// editor does what a script says, as a user's hands would.
type editor struct {
	completer *Completer
	buffer    buffer
	pace      time.Duration // from one keystroke to the next
	out       io.Writer
	notes     io.Writer
	shown     string // the suggestion that was printed last, of this text
}

// play does the steps.
func (e *editor) play(ctx context.Context, steps <-chan step) error {
	for {
		select {
		case step, more := <-steps:
			if !more {
				return nil
			}
			if err := e.do(ctx, step); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (e *editor) do(ctx context.Context, step step) error {
	switch step.verb {
	case "type":
		for _, char := range step.text {
			if err := e.press(ctx, func() { e.buffer.insert(string(char)) }); err != nil {
				return err
			}
		}
	case "pause":
		return wait(ctx, step.span)
	case "wait":
		text, err := e.completer.Wait(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // for the status line; the next keystroke asks again
			first, _, _ := strings.Cut(err.Error(), "\n")
			fmt.Fprintln(e.notes, "editor:", first)
		}
		e.show(text)
	case "show":
		e.show(e.completer.Suggestion())
	case "accept":
		// What was seen, and not what came since.
		return e.press(ctx, func() { e.buffer.insert(e.shown) })
	default:
		key := map[string]func(){"enter": func() { e.buffer.insert("\n") },
			"backspace": e.buffer.backspace, "left": e.buffer.left, "right": e.buffer.right}[step.verb]
		for range step.count {
			if err := e.press(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// press is a keystroke: the buffer changes, and what was suggested is for another text.
func (e *editor) press(ctx context.Context, key func()) error {
	key()
	e.shown = ""
	e.completer.Edit(e.buffer.before, e.buffer.after)
	return wait(ctx, e.pace)
}

func (e *editor) show(suggestion string) {
	e.shown = suggestion
	fmt.Fprintf(e.out, "%s\n---\n", e.buffer.shown(suggestion))
}
