package mlxstdio

import (
	"context"
	"iter"
)

// Delta is a piece of a stream's text.
//
// A host that is slower than the engine gets fewer, longer ones, as the text of several is joined
// then; Seq is that of the first of them.
type Delta = StreamDelta

// GenerationRequest is what can be streamed: [GenerateParams], [ChatParams] or [InfillParams].
type GenerationRequest interface {
	generation(stream bool) (method string, params any, ownTimeout bool)
}

// Result is the end of a stream: what [GenerateResult], [ChatResult] and [InfillResult] have in
// common.
type Result struct {
	Outcome

	// The whole text; in a chat that of the message.
	Text string `json:"text"`

	// The model's turn in a chat.
	Message *AssistantMessage `json:"message,omitzero"`
}

// Stream is a generation in progress. One goroutine at a time uses it; [Stream.Close] may be called
// by any.
type Stream struct {
	exchange *exchange
	unwatch  func() bool
	over     bool
	result   Result
	err      error
}

// Stream begins a generation whose text comes in pieces. The request is on its way when it returns.
//
//	stream, err := client.Stream(ctx, &mlxstdio.GenerateParams{Prompt: mlxstdio.Prompt("Once")})
//	if err != nil {
//		return err
//	}
//	for delta, err := range stream.Deltas() {
//		if err != nil {
//			return err
//		}
//		fmt.Print(delta.Text)
//	}
//	result, err := stream.Result()
//
// The end of the context cancels it at once, whoever reads it or not. A stream that is neither read to
// its end nor left nor closed is held by its context. The params may be used again as soon as Stream has
// returned; it sets their Stream itself. With [Restart] it waits for an engine that is being started.
func (c *Client) Stream(ctx context.Context, request GenerationRequest, options ...CallOption) (*Stream, error) {
	x := c.generation(ctx, request, true, options)
	if err := x.start(); err != nil {
		return nil, err
	}
	return &Stream{exchange: x, unwatch: context.AfterFunc(ctx, x.leave)}, nil
}

// Deltas are the pieces of the text, in order: joined, they are Result's Text. An error is the last
// thing that comes, with an empty delta; Result gives the same one, so a loop may as well just end there.
// (But where the end of the context, or Close, crosses the engine's reply, the loop is cut short and
// ends with that error, and Result has the whole.) Leaving the loop before the end, be it by a panic,
// cancels the generation; [Stream.Result] then tells how it ended.
func (s *Stream) Deltas() iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		for delta, err := range s.All() {
			if err == nil && delta.Channel != ChannelContent {
				continue
			}
			if !yield(delta, err) {
				return
			}
		}
	}
}

// All is Deltas with what belongs to another channel than [ChannelContent], too: later engines may
// put a model's reasoning into one, which is no part of the text.
func (s *Stream) All() iter.Seq2[Delta, error] {
	return func(yield func(Delta, error) bool) {
		read := false
		defer func() { // a panic in the loop, or in what tells of progress, leaves it as a break does
			if !read {
				_ = s.Close()
			}
		}()
		for !s.over {
			delta, err := s.exchange.next()
			if delta == nil {
				s.finish(err)
				break
			}
			if !yield(*delta, nil) {
				return
			}
		}
		read = true
		err := s.err
		if err == nil && s.exchange.wasCut() { // the reply has crossed the cancel; this is not all of the text
			err = s.exchange.explain(s.exchange.whyLeft())
		}
		if err != nil {
			yield(Delta{}, err)
		}
	}
}

// Result waits for the end, passing over deltas that were not read. After the end of the stream's
// context its error is that of the context, at once. A generation that was cancelled by leaving the
// loop, or by Close, ends with the engine's [KindCancelled] and what there was of its text in
// Data.Partial, or with a result if it was whole before the engine heard of it.
func (s *Stream) Result() (*Result, error) {
	if !s.over {
		s.finish(s.exchange.wait(nil))
	}
	if s.err != nil {
		return nil, s.err
	}
	return &s.result, nil
}

// Retries is how often the request was sent again to a restarted engine.
func (s *Stream) Retries() int {
	s.exchange.mu.Lock()
	defer s.exchange.mu.Unlock()
	return s.exchange.retries
}

// Close cancels the generation if it has not ended; a loop that reads it gets an error. It does not
// wait for the engine's reply.
func (s *Stream) Close() error {
	s.exchange.leave()
	s.unwatch() // a context that lives on must not hold the stream
	return nil
}

func (s *Stream) finish(err error) {
	s.over, s.err = true, err
	s.unwatch()
	if err == nil {
		s.err = s.exchange.wait(&s.result)
	}
	s.result.settle()
}

// settle takes the text from where a chat has it.
func (r *Result) settle() {
	if r.Message != nil {
		r.Text = r.Message.Content
	}
}
