package mlxstdio

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func generate(t *testing.T, c *Client, ctx context.Context) *Stream {
	t.Helper()
	stream, err := c.Stream(ctx, prompt)
	if err != nil {
		t.Fatal(err)
	}
	return stream
}

// A host that is slower than the engine loses no text, and holds nobody up.
func TestASlowHostGetsFewerLongerDeltas(t *testing.T) {
	c, p := connect(t, Options{})
	const many = 10 * waitingDeltas
	var whole strings.Builder
	go func() {
		id := p.read().ID
		for seq := range many {
			text := fmt.Sprintf("%d ", seq)
			whole.WriteString(text)
			p.delta(id, seq, text)
		}
		p.reply(p.read().ID, `{}`)
		p.reply(id, outcome(whole.String()))
	}()
	stream := generate(t, c, limited(t))
	if err := c.Ping(limited(t)); err != nil { // all deltas have come
		t.Fatal(err)
	}
	var text strings.Builder
	var tokens []int64
	deltas, next := 0, int64(0)
	for delta, err := range stream.Deltas() {
		if err != nil {
			t.Fatal(err)
		}
		if delta.Seq != next {
			t.Errorf("seq %d where %d is due", delta.Seq, next)
		}
		next += int64(len(delta.Tokens))
		deltas++
		text.WriteString(delta.Text)
		tokens = append(tokens, delta.Tokens...)
	}
	result, err := stream.Result()
	if err != nil || text.String() != result.Text || deltas != waitingDeltas {
		t.Errorf("%d deltas, %v, %q", deltas, err, text.String())
	}
	for at, token := range tokens {
		if token != int64(at) || len(tokens) != many {
			t.Fatalf("tokens %v", tokens)
		}
	}
}

// What is joined keeps its log probabilities, and text of another channel apart.
func TestWhatIsJoined(t *testing.T) {
	c, p := connect(t, Options{})
	const many = 3 * waitingDeltas
	go func() {
		id := p.read().ID
		for seq := range many {
			channel := []string{"reasoning", "content"}[seq*2/many]
			p.write(`{"jsonrpc":"2.0","method":"stream/delta","params":{"requestId":%s,"seq":%d,"text":"x","channel":%q,"tokens":[1],"logprobs":[{"token":1,"text":"x","logprob":-1}]}}`,
				id, seq, channel)
		}
		p.reply(p.read().ID, `{}`)
		p.reply(id, outcome("x"))
	}()
	stream := generate(t, c, limited(t))
	if err := c.Ping(limited(t)); err != nil { // all deltas have come
		t.Fatal(err)
	}
	text, probabilities := map[Channel]int{}, 0
	for delta, err := range stream.All() {
		if err != nil {
			t.Fatal(err)
		}
		text[delta.Channel] += len(delta.Text)
		probabilities += len(delta.Logprobs)
	}
	if text[ChannelReasoning] != many/2 || text[ChannelContent] != many/2 || probabilities != many {
		t.Errorf("got %v, %d log probabilities", text, probabilities)
	}
}

func TestLeavingTheLoopCancels(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{})
	go func() {
		id := p.read().ID
		p.delta(id, 0, "a")
		if told := p.read(); told.Method != MethodCancelRequest {
			t.Errorf("sent %+v", told)
		}
		p.delta(id, 1, "b")
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32800,"message":"cancelled","data":{"kind":"cancelled","partial":{"text":"ab","completionTokens":2}}}}`, id)
	}()
	stream := generate(t, c, limited(t))
	for range stream.Deltas() {
		break
	}
	var told *Error
	for range 2 { // it stays so
		_, err := stream.Result()
		if !errors.Is(err, KindCancelled) || !errors.As(err, &told) || told.Data.Partial.Text != "ab" {
			t.Errorf("got %v", err)
		}
	}
	for delta, err := range stream.Deltas() {
		if err == nil {
			t.Errorf("another delta: %+v", delta)
		}
	}
}

// A cancel and the reply may cross.
func TestAResultThatCrossesTheCancelIsAResult(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		id := p.read().ID
		p.delta(id, 0, "a")
		p.read()
		p.reply(id, outcome("a"))
	}()
	stream := generate(t, c, limited(t))
	for range stream.Deltas() {
		break
	}
	if result, err := stream.Result(); err != nil || result.Text != "a" {
		t.Errorf("got %+v, %v", result, err)
	}
}

// Whoever reads a stream that another goroutine closes must not take a part of the text for the whole.
func TestATextThatWasCutIsNotTakenForAWhole(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		id := p.read().ID
		p.delta(id, 0, "a")
		p.read()
		p.delta(id, 1, "b")
		p.reply(id, outcome("ab"))
	}()
	stream := generate(t, c, limited(t))
	text, last := "", error(nil)
	for delta, err := range stream.Deltas() {
		text, last = text+delta.Text, err
		_ = stream.Close()
	}
	if text != "a" || !errors.Is(last, context.Canceled) {
		t.Errorf("got %q, %v", text, last)
	}
	if result, err := stream.Result(); err != nil || result.Text != "ab" {
		t.Errorf("got %+v, %v", result, err)
	}
}

// The context's end cancels a stream that nobody reads, too.
func TestTheContextOfAStream(t *testing.T) {
	noLeaks(t)
	c, p := connect(t, Options{})
	ctx, cancel := context.WithCancel(limited(t))
	defer cancel()
	told := make(chan sent, 1)
	go func() {
		p.delta(p.read().ID, 0, "a")
		told <- p.read()
	}()
	stream := generate(t, c, ctx)
	for delta, err := range stream.Deltas() {
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
			continue
		}
		if delta.Text != "a" {
			t.Errorf("got %+v", delta)
		}
		cancel()
	}
	if method := (<-told).Method; method != MethodCancelRequest {
		t.Errorf("sent %s", method)
	}
	if _, err := stream.Result(); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}

	other, cancelOther := context.WithCancel(limited(t))
	go func() {
		p.read()
		told <- p.read()
	}()
	generate(t, c, other)
	cancelOther()
	if method := (<-told).Method; method != MethodCancelRequest {
		t.Errorf("sent %s", method)
	}
}

func TestResultWithoutALoop(t *testing.T) {
	c := startFake(t, "", Options{})
	stream, err := c.Stream(limited(t), &ChatParams{Messages: []ChatMessage{System("be kind"), User("hello")}})
	if err != nil {
		t.Fatal(err)
	}
	result, err := stream.Result()
	if err != nil || result.Text != "hello" || result.Message.Content != "hello" || result.FinishReason != FinishReasonStop {
		t.Errorf("got %+v, %v", result, err)
	}
	for delta := range stream.Deltas() {
		t.Errorf("a delta after the result: %+v", delta)
	}
}

func TestCloseOfAStream(t *testing.T) {
	c := startFake(t, "", Options{})
	stream, err := c.Stream(limited(t), &GenerateParams{Prompt: Prompt("x"), Generation: Generation{IgnoreEos: Ptr(true), MaxTokens: 8000}})
	if err != nil {
		t.Fatal(err)
	}
	var last error
	for _, err := range stream.Deltas() {
		if last = err; err == nil {
			go stream.Close()
		}
	}
	if !errors.Is(last, KindCancelled) {
		t.Errorf("got %v", last)
	}
	if err := stream.Close(); err != nil {
		t.Error(err)
	}
}

func TestProgressComesBeforeTheText(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [
		{"progress": {"phase": "queued", "completed": 0, "total": 2, "unit": "requests"}},
		{"progress": {"phase": "prefill", "completed": 1, "total": 9, "unit": "tokens"}},
		{"progress": {"phase": "prefill", "completed": 9, "total": 9, "unit": "tokens"}},
		{"delta": "a"}, {"finish": "stop"}]}]}`
	c := startFake(t, script, Options{})
	var told []string
	report := OnProgress(func(p Progress) { told = append(told, fmt.Sprint(p.Phase, " ", p.Completed)) })
	stream, err := c.Stream(limited(t), prompt, report)
	if err != nil {
		t.Fatal(err)
	}
	for delta, err := range stream.Deltas() {
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, delta.Text)
	}
	text := strings.Join(told, ", ")
	if !strings.HasPrefix(text, "queued 0, prefill") || !strings.HasSuffix(text, "prefill 9, a") {
		t.Errorf("got %s", text)
	}
	told = nil
	if result, err := c.Generate(limited(t), prompt, report); err != nil || result.Text != "a" || len(told) == 0 {
		t.Errorf("got %+v, %v, %v", result, err, told)
	}
}

func TestAnErrorInMidStream(t *testing.T) {
	script := `{"rules": [{"method": "generate", "steps": [{"delta": "a"},
		{"error": {"kind": "internalError", "message": "broken", "data": {"partial": {"text": "a", "completionTokens": 1}}}}]}]}`
	c := startFake(t, script, Options{})
	var got []string
	for delta, err := range generate(t, c, limited(t)).Deltas() {
		got = append(got, fmt.Sprint(delta.Text, errors.Is(err, CodeInternalError)))
	}
	if strings.Join(got, " ") != "afalse true" {
		t.Errorf("got %v", got)
	}
}
