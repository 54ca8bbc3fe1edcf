package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/internal/enginetest"
)

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), enginetest.Patience)
	t.Cleanup(cancel)
	return ctx
}

func startClient(t *testing.T, engine []string) *mlxstdio.Client {
	t.Helper()
	client, err := mlxstdio.Start(limited(t), mlxstdio.Options{Command: engine[0], Args: engine[1:],
		Dir: enginetest.Root(), Restart: &mlxstdio.Restart{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Close(); err != nil {
			t.Error(err)
		}
	})
	return client
}

func completerWith(t *testing.T, client *mlxstdio.Client, debounce time.Duration, redraw func()) *Completer {
	t.Helper()
	completer := NewCompleter(client, debounce, 24, redraw)
	t.Cleanup(completer.Close)
	return completer
}

func counters(t *testing.T, client *mlxstdio.Client) mlxstdio.Counters {
	t.Helper()
	status, err := client.Status(limited(t))
	if err != nil {
		t.Fatal(err)
	}
	return status.Counters
}

func expect(t *testing.T, completer *Completer, text string) {
	t.Helper()
	got, err := completer.Wait(limited(t))
	if err != nil || got != text {
		t.Errorf("suggested is %q (%v), not %q", got, err, text)
	}
	if shown := completer.Suggestion(); shown != text {
		t.Errorf("shown is %q, not %q", shown, text)
	}
}

// Of fifty keystrokes, each of which finds a request that streams, fortynine cancel it.
func TestEachKeystrokeCancels(t *testing.T) {
	const keys = 50
	last := strings.Repeat("x", keys)
	client := startClient(t, enginetest.Fake(t, fmt.Sprintf(`{"rules": [
		{"method": "infill", "params": {"prefix": %q, "suffix": ")", "priority": "interactive", "maxTokens": 24,
				"stop": ["\n\n"]}, "steps": [{"delta": "la"}, {"delta": "st"}]},
		{"method": "infill", "steps": [{"delta": "old"}, {"silent": true}]}]}`, last)))
	var redraws atomic.Int64
	completer := completerWith(t, client, 0, func() { redraws.Add(1) })
	for key := 1; key < keys; key++ {
		completer.Edit(last[:key], ")")
		enginetest.Eventually(t, "it streams", func() bool { return completer.Suggestion() == "old" })
		enginetest.Eventually(t, "all others are cancelled", func() bool {
			return counters(t, client).Cancelled == int64(key-1)
		})
	}
	completer.Edit(last, ")")
	if shown := completer.Suggestion(); strings.Contains(shown, "old") {
		t.Errorf("shown is %q", shown)
	}
	expect(t, completer, "last")
	enginetest.Eventually(t, "all others are cancelled", func() bool { return counters(t, client).Cancelled == keys-1 })
	if count := counters(t, client); count.Failed != 0 {
		t.Errorf("the engine has counted %+v", count)
	}
	if redraws.Load() < keys {
		t.Errorf("%d redraws", redraws.Load())
	}
}

// The engine is fast, so that replies cross keystrokes in all ways; what is shown is for the latest
// text, at any moment.
func TestNothingStale(t *testing.T) {
	client := startClient(t, enginetest.Fake(t, `{"tokenMs": 0}`)) // repeats what is around the gap
	completer := completerWith(t, client, 0, nil)
	seen := 0
	for key := range 200 {
		text := fmt.Sprintf("%d.", key)
		completer.Edit(text, "")
		for range (key % 8) * 10 {
			shown := completer.Suggestion()
			if !strings.HasPrefix(text, shown) {
				t.Fatalf("for %q shown is %q", text, shown)
			}
			if shown != "" {
				seen++
			}
			time.Sleep(time.Microsecond) // so that there is something to see in some rounds
		}
		if key%50 == 0 {
			expect(t, completer, text)
		}
	}
	t.Logf("seen %d times", seen)
	completer.Edit("end", "")
	expect(t, completer, "end")
}

// Who types faster than the debounce asks nothing.
func TestDebounce(t *testing.T) {
	client := startClient(t, enginetest.Fake(t, `{}`))
	completer := completerWith(t, client, time.Hour, nil)
	for key := range 50 {
		completer.Edit(fmt.Sprint(key), "")
	}
	ctx, cancel := context.WithCancel(limited(t))
	cancel()
	if _, err := completer.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait gives %v", err)
	}
	completer.Close()
	expect(t, completer, "")
	if count := counters(t, client); count.ModelLoads != 0 || count.Cancelled != 0 { // the first request loads
		t.Errorf("the engine has counted %+v", count)
	}
	completer = completerWith(t, client, time.Millisecond, nil)
	completer.Edit("now", "")
	expect(t, completer, "now")
}

// An error is told to who waits, and the next keystroke asks again; so it is with a crash.
func TestErrors(t *testing.T) {
	client := startClient(t, enginetest.Fake(t, `{"rules": [
		{"method": "infill", "params": {"prefix": "bad"}, "steps": [{"error": {"kind": "overloaded"}}]},
		{"method": "infill", "params": {"prefix": "crash"}, "steps": [{"delta": "half"}, {"signal": "SIGKILL"}]}]}`))
	completer := completerWith(t, client, 0, nil)
	completer.Edit("bad", "")
	if text, err := completer.Wait(limited(t)); !errors.Is(err, mlxstdio.KindOverloaded) || text != "" {
		t.Errorf("Wait gives %q, %v", text, err)
	}
	completer.Edit("good", "")
	expect(t, completer, "good")
	completer.Edit("crash", "")
	text, err := completer.Wait(limited(t))
	var exit *mlxstdio.ExitError
	if !errors.As(err, &exit) || text != "half" {
		t.Errorf("Wait gives %q, %v", text, err)
	}
	completer.Edit("again", "")
	expect(t, completer, "again")
}

// Close leaves nothing that runs.
func TestCloseCancels(t *testing.T) {
	client := startClient(t, enginetest.Fake(t, `{"rules": [{"method": "infill", "steps": [
		{"delta": "old"}, {"silent": true}]}]}`))
	completer := completerWith(t, client, 0, nil)
	completer.Edit("", "")
	enginetest.Eventually(t, "it streams", func() bool { return completer.Suggestion() == "old" })
	completer.Close()
	enginetest.Eventually(t, "it is cancelled", func() bool { return counters(t, client).Cancelled == 1 })
}
