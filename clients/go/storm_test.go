package mlxstdio

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Many things at once, in no order.

// outcomes tells how a request may end: with its text, or with an error that says what has come.
func checkEnd(t *testing.T, text string, got string, err error) {
	t.Helper()
	var told *Error
	var lost *LostError
	switch {
	case err == nil && got != text:
		t.Errorf("%q in place of %q", got, text)
	case !strings.HasPrefix(text, got):
		t.Errorf("%q is no beginning of %q", got, text)
	case err == nil, errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.Is(err, ErrClosed), errors.As(err, &told), errors.As(err, &lost):
	default:
		t.Errorf("got %v", err)
	}
}

// one is a stream of the storm, which may be left in any of the ways that there are.
func one(t *testing.T, c *Client, number int) {
	text := strings.Repeat(fmt.Sprintf("%d,", number), 20)
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	way := rand.IntN(6)
	if way == 0 {
		time.AfterFunc(time.Duration(rand.IntN(50))*time.Millisecond, cancel)
	}
	stream, err := c.Stream(ctx, &GenerateParams{Prompt: Prompt(text)})
	if err != nil {
		checkEnd(t, text, "", err)
		return
	}
	if way == 1 {
		time.AfterFunc(time.Duration(rand.IntN(50))*time.Millisecond, func() { _ = stream.Close() })
	}
	if way == 2 {
		return // forgotten
	}
	var got strings.Builder
	var last error
	for delta, err := range stream.Deltas() {
		last = err
		got.WriteString(delta.Text)
		if way == 3 && rand.IntN(10) == 0 {
			break
		}
	}
	result, err := stream.Result()
	if err != nil {
		last = err
	} else if result.Text != text {
		t.Errorf("%q in place of %q", result.Text, text)
	}
	if way == 3 && last == nil { // left, and yet the engine was quicker
		return
	}
	checkEnd(t, text, got.String(), last)
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		t.Skip(err)
	}
	return len(entries)
}

func TestAStormOfStreams(t *testing.T) {
	noLeaks(t)
	c := startFake(t, "", Options{}, "--max-concurrent", "32")
	var all sync.WaitGroup
	for number := range 300 {
		all.Go(func() { one(t, c, number) })
	}
	all.Wait()
	eventually(t, "nothing is in flight", func() bool { return c.conn.inFlight() == 0 })
	status, err := c.Status(limited(t))
	if err != nil || status.Requests.Running+status.Requests.Queued != 0 {
		t.Errorf("%+v, %v", status, err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// The engine is killed again and again while requests run: each of them ends, none of their text
// comes twice, and nothing is left of all the engines.
func TestAStormOfExits(t *testing.T) {
	noLeaks(t)
	before := descriptors(t)
	var exits atomic.Int32
	c := startFake(t, "", Options{
		Restart: &Restart{Wait: time.Millisecond, MaxWait: time.Millisecond, Attempts: 1000, Retries: 3},
		OnExit:  func(*ExitError) { exits.Add(1) },
	}, "--max-concurrent", "32")
	var all sync.WaitGroup
	for number := range 50 {
		all.Go(func() {
			for exits.Load() < 4 {
				one(t, c, number)
			}
		})
	}
	for exits.Load() < 4 {
		time.Sleep(time.Duration(rand.IntN(100)) * time.Millisecond) // at any moment
		if pid := c.Pid(); pid != 0 {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	all.Wait()
	if err := c.Ping(limited(t)); err != nil {
		t.Error(err)
	}
	var closes sync.WaitGroup
	for range 5 {
		closes.Go(func() { _ = c.Close() })
		closes.Go(func() { one(t, c, 1) })
	}
	closes.Wait()
	eventually(t, "no descriptor is left", func() bool { return descriptors(t) <= before })
}
