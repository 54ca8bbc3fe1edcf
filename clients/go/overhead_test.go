package mlxstdio

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"
)

// What the client costs, against the same work read straight off the pipe, in turns:
//
//	go test -run '^$' -bench Overhead -benchtime 200x

// talker is an engine of which nothing is measured: it writes deltas that were made before into a
// pipe of the kernel, as fast as they are taken, for each `generate` that it reads.
type talker struct {
	requests *bufio.Reader
	replies  *os.File
	pace     chan struct{} // where it waits after each write, if it is there
}

// duplex is the client's end of two pipes.
type duplex struct {
	io.Reader
	io.Writer
	ends []*os.File
}

func (d duplex) Close() error {
	closeAll(d.ends)
	return nil
}

func newTalker(t testing.TB) (*talker, duplex) {
	fromHost, toEngine, err1 := os.Pipe()
	fromEngine, toHost, err2 := os.Pipe()
	if err1 != nil || err2 != nil {
		t.Fatal(err1, err2)
	}
	t.Cleanup(func() { closeAll([]*os.File{fromHost, toHost}) })
	return &talker{requests: bufio.NewReader(fromHost), replies: toHost}, duplex{fromEngine, toEngine, []*os.File{fromEngine, toEngine}}
}

// talk answers requests with so many tokens each, a write for every few of them.
func (k *talker) talk(tokens, together int) {
	for {
		line, err := k.requests.ReadBytes('\n')
		if err != nil {
			return
		}
		var request struct{ ID int64 }
		if json.Unmarshal(line, &request) != nil {
			return
		}
		var output bytes.Buffer
		for seq := range tokens {
			fmt.Fprintf(&output, `{"jsonrpc":"2.0","method":"stream/delta","params":{"requestId":%d,"seq":%d,`+
				`"text":" token","channel":"content","tokens":[%d]}}`+"\n", request.ID, seq, seq)
			if seq%together == 0 {
				if _, err := k.replies.Write(output.Bytes()); err != nil {
					return
				}
				output.Reset()
				if k.pace != nil {
					<-k.pace
				}
			}
		}
		fmt.Fprintf(&output, `{"jsonrpc":"2.0","id":%d,"result":%s}`+"\n", request.ID, outcome("the end"))
		if _, err := k.replies.Write(output.Bytes()); err != nil {
			return
		}
	}
}

// straight is the least that a host can do: lines off the pipe, up to the reply.
func straight(to io.Writer, from *bufio.Reader, id int) error {
	_, err := fmt.Fprintf(to, `{"jsonrpc":"2.0","id":%d,"method":"generate","params":{"prompt":"x","maxTokens":1,"seed":0}}`+"\n", id)
	for err == nil {
		var line []byte
		if line, err = from.ReadSlice('\n'); bytes.Contains(line, []byte(`"result"`)) {
			return nil
		}
	}
	return err
}

func median(times []time.Duration) float64 {
	slices.Sort(times)
	return float64(times[len(times)/2].Nanoseconds())
}

func BenchmarkOverheadOfAToken(b *testing.B) {
	const tokens = 2000
	ctx := context.Background()
	one, raw := newTalker(b)
	go one.talk(tokens, 1)
	two, stream := newTalker(b)
	go two.talk(tokens, 1)
	c := NewClient(stream, Options{})
	defer c.Close()
	lines := bufio.NewReaderSize(raw, 64*1024)
	var straights, clients []time.Duration
	b.ReportAllocs()
	id := 0
	for b.Loop() {
		began := time.Now()
		id++
		if err := straight(raw, lines, id); err != nil {
			b.Fatal(err)
		}
		straights = append(straights, time.Since(began)/tokens)
		began = time.Now()
		stream, err := c.Stream(ctx, prompt)
		if err != nil {
			b.Fatal(err)
		}
		for _, err := range stream.Deltas() {
			if err != nil {
				b.Fatal(err)
			}
		}
		clients = append(clients, time.Since(began)/tokens)
	}
	report(b, straights, clients, "token")
}

func BenchmarkOverheadOfARequest(b *testing.B) {
	ctx := context.Background()
	engine := realEngine(b)
	to, _ := engine.StdinPipe()
	from, _ := engine.StdoutPipe()
	if err := engine.Start(); err != nil {
		b.Skip(err)
	}
	defer engine.Wait()
	defer to.Close()
	c, err := Start(ctx, Options{Cmd: realEngine(b)})
	if err != nil {
		b.Skip(err)
	}
	defer c.Close()
	lines := bufio.NewReaderSize(from, 64*1024)
	params := &GenerateParams{Prompt: Prompt("x"), Generation: Generation{MaxTokens: 1, Seed: Ptr(int64(0))}}
	var straights, clients []time.Duration
	for id := 0; id < 5; id++ { // loaded, warm
		_ = straight(to, lines, id)
		_, _ = c.Generate(ctx, params)
	}
	id := 5
	for b.Loop() {
		began := time.Now()
		id++
		if err := straight(to, lines, id); err != nil {
			b.Fatal(err)
		}
		straights = append(straights, time.Since(began))
		began = time.Now()
		if _, err := c.Generate(ctx, params); err != nil {
			b.Fatal(err)
		}
		clients = append(clients, time.Since(began))
	}
	report(b, straights, clients, "request")
}

func report(b *testing.B, straights, clients []time.Duration, unit string) {
	one, other := median(straights), median(clients)
	b.ReportMetric(one/1000, "us-straight/"+unit)
	b.ReportMetric(other/1000, "us-client/"+unit)
	b.ReportMetric((other-one)/1000, "us-added/"+unit)
}

// However long a stream is, the client holds no more of it, and allocates the same for each token.
func TestAStreamTakesNoMemoryOfItsLength(t *testing.T) {
	const tokens, early, together = 60_000, 5_000, 50
	k, stream := newTalker(t)
	k.pace = make(chan struct{}, 1) // nothing waits where it is measured
	defer close(k.pace)
	go k.talk(tokens, together)
	c := NewClient(stream, Options{})
	defer c.Close()
	live := func() (figures runtime.MemStats) {
		runtime.GC()
		runtime.ReadMemStats(&figures)
		return figures
	}
	running := generate(t, c, limited(t))
	var first, middle, last runtime.MemStats
	count, text := 0, 0
	for delta, err := range running.Deltas() {
		if err != nil {
			t.Fatal(err)
		}
		text += len(delta.Text)
		before := count
		count += len(delta.Tokens)
		passed := func(mark int) bool { return before < mark && count >= mark }
		switch {
		case passed(early):
			first = live()
		case passed(tokens / 2):
			middle = live()
		case passed(tokens - early):
			last = live()
		}
		if count%together == 1 {
			k.pace <- struct{}{}
		}
	}
	if text != tokens*len(" token") {
		t.Fatalf("%d bytes of text", text)
	}
	if grown := int64(last.HeapAlloc) - int64(first.HeapAlloc); grown > 256<<10 {
		t.Errorf("%d bytes more are held at the end", grown)
	}
	one, other := middle.Mallocs-first.Mallocs, last.Mallocs-middle.Mallocs
	if float64(other) > 1.3*float64(one) {
		t.Errorf("%d allocations in the first half, %d in the second", one, other)
	}
	t.Logf("%.1f allocations a token", float64(other)/(tokens/2-early))
}
