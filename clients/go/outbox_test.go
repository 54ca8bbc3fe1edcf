package mlxstdio

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"
)

// An engine that does not read holds nobody up whose context ends.
func TestAnEngineThatDoesNotRead(t *testing.T) {
	noLeaks(t)
	c, _ := connect(t, Options{})
	large := &GenerateParams{Prompt: Prompt(strings.Repeat("x", outboxBytes))}
	for range 3 {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
		if _, err := c.Generate(ctx, large); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
		cancel()
	}
	if left := c.conn.inFlight(); left > 2 { // one is written, one waits to be
		t.Errorf("%d requests are in flight", left)
	}
}

// However much has been sent, there is room for more once it is read.
func TestManyLargeRequests(t *testing.T) {
	c, p := connect(t, Options{})
	large := &GenerateParams{Prompt: Prompt(strings.Repeat("x", outboxBytes*2/3))}
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			if _, err := c.Generate(limited(t), large); err != nil {
				t.Error(err)
			}
		})
	}
	for range 6 {
		p.reply(p.read().ID, outcome(""))
	}
	all.Wait()
}

// One that waits for room ends with the client, and nothing is written of it.
func TestCloseEndsWhatWaitsForRoom(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{Grace: time.Millisecond})
	ended := make(chan error, 3)
	for range 3 { // one is written, one waits to be, one waits for room
		go func() {
			ended <- c.Call(limited(t), "any", strings.Repeat("x", outboxBytes), nil)
		}()
	}
	if _, err := p.lines.Peek(1); err != nil {
		t.Fatal(err)
	}
	eventually(t, "all are under way", func() bool { return c.conn.inFlight() == 3 })
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	for range 3 {
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

// What was sent before Close still goes out.
func TestCloseWritesWhatWaits(t *testing.T) {
	c, p := connect(t, Options{})
	ctx := limited(t)
	if err := errors.Join(c.Notify(ctx, "one", nil), c.Notify(ctx, "two", nil)); err != nil {
		t.Fatal(err)
	}
	go c.Close()
	<-c.closing
	if one, two := p.read(), p.read(); one.Method != "one" || two.Method != "two" {
		t.Errorf("sent %s, %s", one.Method, two.Method)
	}
}
