package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A retry sends what was asked, whatever the host has done with its params since.
func TestParamsMayBeUsedAgain(t *testing.T) {
	noLeaks(t)
	options, _ := fragile(t, `{"delayMs": 50, "exit": 70}`)
	c := start(t, options)
	params := &GenerateParams{Prompt: Prompt("die"), Generation: Generation{Stop: []string{"z"}}}
	stream, err := c.Stream(limited(t), params)
	if err != nil {
		t.Fatal(err)
	}
	params.Prompt, params.Stop[0] = Prompt("another"), "i" // with the race detector this is more than one failure
	result, err := stream.Result()
	if err != nil || result.Text != "die" || stream.Retries() != 1 {
		t.Errorf("got %+v, %v, %d retries", result, err, stream.Retries())
	}
}

func TestWhichTimeTravels(t *testing.T) {
	c, p := connect(t, Options{})
	late, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	none := context.Background()
	for name, row := range map[string]struct {
		ask  func()
		want any
	}{
		"deadline":       {func() { _, _ = c.Generate(late, prompt) }, true},
		"none":           {func() { _, _ = c.Generate(none, prompt) }, nil},
		"own":            {func() { _, _ = c.Generate(late, &GenerateParams{Generation: Generation{TimeoutMs: 7}}) }, 7.0},
		"wrong":          {func() { _, _ = c.Generate(none, &GenerateParams{Generation: Generation{TimeoutMs: -7}}) }, -7.0},
		"load":           {func() { _, _ = c.Load(late, &LoadParams{}) }, true},
		"load, own":      {func() { _, _ = c.Load(late, &LoadParams{TimeoutMs: 7}) }, 7.0},
		"load, nil":      {func() { _, _ = c.Load(late, nil) }, true},
		"unload":         {func() { _, _ = c.Unload(late, &UnloadParams{}) }, true},
		"generate, nil":  {func() { _, _ = c.Generate(late, nil) }, true},
		"takes none":     {func() { _, _ = c.Tokenize(late, &TokenizeParams{}) }, nil},
		"takes nothing":  {func() { _, _ = c.Status(late) }, nil},
		"of the caller":  {func() { _ = c.Call(late, "x", map[string]any{"a": 1}, nil) }, nil},
		"of a stream":    {func() { _, _ = c.Do(late, &InfillParams{}) }, true},
		"a chat of none": {func() { _, _ = c.Do(late, (*ChatParams)(nil)) }, true},
	} {
		t.Run(name, func(t *testing.T) {
			done := make(chan struct{})
			go func() {
				defer close(done)
				row.ask()
			}()
			said := p.read()
			got := said.Params["timeoutMs"]
			if ms, ok := got.(float64); row.want == true && ok && ms > 0 && ms <= float64(patience/time.Millisecond) {
				got = true
			}
			if !reflect.DeepEqual(got, row.want) {
				t.Errorf("timeoutMs is %v, not %v", got, row.want)
			}
			p.reply(said.ID, `{}`)
			<-done
		})
	}
}

// Code is full of what HTML would escape, and a message has a limit.
func TestAPromptIsAsLongAsItIs(t *testing.T) {
	c, p := connect(t, Options{})
	text := strings.Repeat("<&>", 100)
	length := make(chan int)
	go func() {
		line, _ := p.lines.ReadBytes('\n')
		length <- len(line)
		var said sent
		_ = json.Unmarshal(line, &said)
		if said.Params["prompt"] != text {
			t.Errorf("sent %s", line)
		}
		p.reply(said.ID, outcome("x"))
	}()
	go func() { _, _ = c.Generate(limited(t), &GenerateParams{Prompt: Prompt(text)}) }()
	if got := <-length; got > 2*len(text) {
		t.Errorf("%d bytes for a prompt of %d", got, len(text))
	}
}

// A member of another form than expected hides no other one.
func TestWhatIsKnownOfAnError(t *testing.T) {
	for data, want := range map[string]ErrorData{
		``: {},
		`,"data":{"kind":"overloaded","retryAfterMs":50}`:                     {Kind: KindOverloaded, RetryAfterMs: 50},
		`,"data":{"kind":"overloaded","retryAfterMs":50.5}`:                   {Kind: KindOverloaded},
		`,"data":{"retryAfterMs":50,"partial":"text","kind":"overloaded"}`:    {Kind: KindOverloaded, RetryAfterMs: 50},
		`,"data":{"kind":7,"retryAfterMs":50,"partial":{"text":"a"},"x":[1]}`: {RetryAfterMs: 50, Partial: &Partial{Text: "a"}},
		`,"data":["overloaded"]`:                                              {},
	} {
		t.Run(data, func(t *testing.T) {
			c, p := connect(t, Options{})
			go func() {
				p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":1004,"message":"busy"%s}}`, p.read().ID, data)
			}()
			_, err := c.Generate(limited(t), prompt)
			var told *Error
			if !errors.As(err, &told) {
				t.Fatal(err)
			}
			told.Data.Raw = nil
			if !reflect.DeepEqual(told.Data, want) || !errors.Is(err, KindOverloaded) || errors.Is(err, KindCancelled) {
				t.Errorf("got %+v", told.Data)
			}
			if told.RetryAfter() != time.Duration(want.RetryAfterMs)*time.Millisecond {
				t.Errorf("again after %v", told.RetryAfter())
			}
		})
	}
}

func TestTheTextIsThatOfItsChannel(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		id := p.read().ID
		p.write(`{"jsonrpc":"2.0","method":"stream/delta","params":{"requestId":%s,"seq":0,"text":"(thinks)","channel":"reasoning"}}`, id)
		p.delta(id, 1, "hello")
		p.reply(id, outcome("hello"))
	}()
	text := ""
	stream := generate(t, c, limited(t))
	for delta, err := range stream.Deltas() {
		if err != nil {
			t.Error(err)
		}
		text += delta.Text
	}
	if result, err := stream.Result(); err != nil || text != result.Text {
		t.Errorf("got %q, %v", text, err)
	}
}

// An error says once which request it is about.
func TestAnErrorNamesItsRequestOnce(t *testing.T) {
	c, p := connect(t, Options{})
	go func() {
		p.write(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32603,"message":"boo"}}`, p.read().ID)
	}()
	if _, err := c.Initialize(limited(t)); err == nil || strings.Count(err.Error(), MethodInitialize) != 1 {
		t.Errorf("got %v", err)
	}
}
