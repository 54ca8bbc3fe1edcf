package main

import (
	"context"
	"net/http"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// generate handles a request that makes text: once it is read, both APIs go the same way.
func (f *front) generate(understand func(body []byte) (*job, error)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context() // ends when the client goes away, and the generation with it
		if f.limits.timeout > 0 {
			limited, cancel := context.WithTimeout(ctx, f.limits.timeout)
			defer cancel()
			ctx = limited
		}
		var todo *job
		body, err := f.read(w, r)
		if err == nil {
			todo, err = understand(body)
		}
		if err == nil {
			err = f.models.check(ctx, todo.generation.Model)
		}
		if err == nil && todo.stream {
			err = f.stream(ctx, w, r, todo)
		} else if err == nil {
			err = f.whole(ctx, w, todo)
		}
		if err != nil {
			f.fail(w, r, todo, err)
		}
	}
}

// whole answers in one piece.
func (f *front) whole(ctx context.Context, w http.ResponseWriter, todo *job) error {
	result, err := f.client.Do(ctx, todo.request)
	if err != nil {
		return err
	}
	to := newAnswers(f, todo)
	to.model = result.Model
	scores, err := f.names.scores(ctx, to, result.Logprobs)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, to.whole(result, scores))
	return nil
}

// stream answers with server-sent events. An error is returned as long as the status can still tell
// it; later it is an event, and the last one.
func (f *front) stream(ctx context.Context, w http.ResponseWriter, r *http.Request, todo *job) error {
	to := newAnswers(f, todo)
	out := newEvents(w, f.limits.stall, to.opening())
	defer out.close()
	err := f.pump(ctx, out, to, todo)
	if err == nil || out.broken != nil || r.Context().Err() != nil {
		return nil // said, or nobody is there to hear it
	}
	if !out.begun {
		return err
	}
	f.note(r, err)
	out.send("error", errorBody{errorOf(todo, err)})
	return nil
}

func (f *front) pump(ctx context.Context, out *events, to *answers, todo *job) error {
	stream, err := f.client.Stream(ctx, todo.request, mlxstdio.OnProgress(out.progress))
	if err != nil {
		return err
	}
	defer stream.Close() // cancels it, however this ends
	for delta, err := range stream.Deltas() {
		if err != nil {
			return err
		}
		if delta.Channel != mlxstdio.ChannelContent {
			continue // of a later engine; OpenAI's content has no place for it
		}
		scores, err := f.names.scores(ctx, to, delta.Logprobs)
		if err != nil {
			return err
		}
		if delta.Text == "" && scores == nil {
			continue
		}
		if !out.send("", to.piece(delta.Text, scores)) {
			return out.broken
		}
	}
	result, err := stream.Result()
	if err != nil {
		return err
	}
	out.send("", to.last(result))
	if todo.usage {
		out.send("", to.usage(result))
	}
	out.done()
	return out.broken
}
