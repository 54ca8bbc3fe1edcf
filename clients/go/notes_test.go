package mlxstdio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A host that shows whether its engine is there must end up with the truth, however slow it is with one
// of the news.
func TestTheNewsComeInOrder(t *testing.T) {
	noLeaks(t)
	told := make(chan string, 100)
	var inside atomic.Int32
	tell := func(what string, takes time.Duration) {
		if inside.Add(1) != 1 {
			t.Errorf("%s while something else is told", what)
		}
		time.Sleep(takes)
		inside.Add(-1)
		told <- what
	}
	options := shellEngine(`read more; echo '{"jsonrpc":"2.0","method":"last/words"}'; exit 9`)
	options.Restart = &Restart{Wait: -1, Attempts: 3, Stable: time.Hour}
	options.OnNotification = func(method string, _ json.RawMessage) { tell(method, 20*time.Millisecond) }
	options.OnExit = func(*ExitError) { tell("down", 200*time.Millisecond) }
	options.OnRestart = func(attempt int, err error) { tell(fmt.Sprint("up ", attempt, err), 0) }
	c := start(t, options)
	for attempt := range 3 {
		if err := c.Notify(limited(t), "die", nil); err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"last/words", "down", fmt.Sprint("up ", attempt+1, nil)} {
			if got := <-told; got != want {
				t.Fatalf("told %q, not %q", got, want)
			}
		}
	}
}

// What is told may close the client; nothing begins to be told afterwards.
func TestCloseFromWhatIsTold(t *testing.T) {
	noLeaks(t)
	var c *Client
	begun, closed := make(chan struct{}), make(chan error)
	var late atomic.Int32
	c = startFake(t, "", Options{
		Restart: &Restart{Wait: -1},
		OnExit: func(*ExitError) {
			<-begun
			eventually(t, "it is back", func() bool { return c.Pid() != 0 })
			closed <- c.Close()
		},
		OnRestart: func(int, error) { late.Add(1) },
	})
	close(begun)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := <-closed; err != nil {
		t.Error(err)
	}
	time.Sleep(20 * time.Millisecond)
	if late.Load() != 0 {
		t.Error("told after Close")
	}
}

// A host that takes its time with one notification gets the later half of what came meanwhile, and all
// that is told of its engine.
func TestNotificationsAreNotCollectedForEver(t *testing.T) {
	noLeaks(t)
	var log bytes.Buffer
	hold, got := make(chan struct{}), make(chan string, 3000)
	n := newNotes(func(method string, params json.RawMessage) {
		<-hold
		got <- method
	}, slog.New(slog.NewTextHandler(&log, nil)))
	large := json.RawMessage(strings.Repeat("x", notesBytes/1000))
	for at := range 2000 {
		n.add(fmt.Sprint(at), large)
		if at%500 == 250 {
			n.tell(func() { got <- "hook" })
		}
		n.mu.Lock()
		if n.size > notesBytes {
			t.Errorf("%d bytes are kept", n.size)
		}
		n.mu.Unlock()
	}
	close(hold)
	notifications, hooks, before := 0, 0, ""
	for one := ""; one != "1999"; {
		if before, one = one, <-got; one == "hook" {
			hooks++
		} else {
			notifications++
		}
	}
	if notifications < 400 || notifications > 1001 || before != "1998" || hooks != 4 {
		t.Errorf("%d notifications, the last but one %s, and %d hooks", notifications, before, hooks)
	}
	if !strings.Contains(log.String(), "are dropped") {
		t.Errorf("the log has %q", log.String())
	}
	n.add("alone", json.RawMessage(strings.Repeat("x", 2*notesBytes))) // the latest is kept however large
	if one := <-got; one != "alone" {
		t.Errorf("got %q", one)
	}
}
