package mlxstdio

import (
	"context"
	"errors"
	"io"
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

// Large and small wait in one line; and one that leaves it lets those behind it go on.
func TestTheLineForRoom(t *testing.T) {
	o, ctx := newOutbox(), context.Background()
	put := func(ctx context.Context, unwanted chan struct{}, size int) chan error {
		ended := make(chan error, 1)
		o.mu.Lock()
		before := len(o.queue)
		o.mu.Unlock()
		go func() { ended <- o.put(ctx, unwanted, frame{data: make([]byte, size)}) }()
		eventually(t, "it waits", func() bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return len(o.queue) > before
		})
		return ended
	}
	if err := o.put(ctx, nil, frame{data: make([]byte, 1000)}); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithCancel(ctx)
	unwanted := make(chan struct{})
	large, other, small := put(short, nil, outboxBytes), put(ctx, unwanted, outboxBytes), put(ctx, nil, 1)
	cancel()
	if err := <-large; !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	select {
	case <-small:
		t.Error("it has passed a large one")
	case <-time.After(20 * time.Millisecond):
	}
	close(unwanted)
	if err := errors.Join(<-small); err != nil || !errors.Is(<-other, context.Canceled) {
		t.Errorf("got %v", err)
	}
	large, small = put(ctx, nil, 2*outboxBytes), put(ctx, nil, 2)
	_, input := io.Pipe()
	go func() { _ = o.write(input) }()
	defer func() {
		o.close(ErrClosed)
		_ = input.Close()
	}()
	if err := <-large; err != nil { // it is next, and taken where nothing else waits to be written
		t.Error(err)
	}
	select {
	case <-small:
		t.Error("it has passed a large one")
	case <-time.After(20 * time.Millisecond):
	}
}
