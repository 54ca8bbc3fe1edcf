// Package mlxstdio runs MLX language models in a Go program: it spawns the engine mlx-stdio as a
// child process, speaks JSON-RPC 2.0 with it over its standard input and output, streams what it
// generates, and looks after it. There is no server, no port and no cgo; the module needs nothing
// but the standard library.
//
// # A first text
//
//	client, err := mlxstdio.Start(ctx, mlxstdio.Options{})
//	if err != nil {
//		return err
//	}
//	defer client.Close()
//	result, err := client.Generate(ctx, &mlxstdio.GenerateParams{
//		Prompt:     mlxstdio.Prompt("def add(a, b):"),
//		Generation: mlxstdio.Generation{MaxTokens: 64, Stop: []string{"\n\n"}},
//	})
//
// A member that is zero is not sent, so the engine's or the model's default holds: MaxTokens 0 is 512.
// Bytes of a string that are no UTF-8 are sent as U+FFFD. Where zero means something, such as a Temperature of 0, the member is a pointer, and [Ptr] makes one.
//
// [Start] finds the engine with [Find] unless it is told which to spawn. The context of Start is for
// the start: the engine lives until [Client.Close], or until the host ends, however that comes. It
// watches the host itself, so that not even SIGKILL leaves it behind.
//
// A model is named by a folder, by an id in the local Hugging Face cache, or by a name inside the
// engine's --models-dir; without one it is the engine's default, `pico` unless Options.Args say
// otherwise. The first request for a model loads it. To load it ahead, and to see how far it is:
//
//	_, err = client.Load(ctx, &mlxstdio.LoadParams{Model: "/models/mine", Pin: mlxstdio.Ptr(true)},
//		mlxstdio.OnProgress(func(p mlxstdio.Progress) {
//			fmt.Printf("\r%d of %d %s", p.Completed, p.Total, p.Unit)
//		}))
//
// # Streams
//
// [Client.Stream] takes the params of Generate, Chat or Infill, and gives the text as it comes:
//
//	stream, err := client.Stream(ctx, &mlxstdio.ChatParams{
//		Messages: []mlxstdio.ChatMessage{mlxstdio.User("What is a monad?")},
//	})
//	if err != nil {
//		return err
//	}
//	for delta, err := range stream.Deltas() {
//		if err != nil {
//			return err
//		}
//		fmt.Print(delta.Text)
//	}
//	result, err := stream.Result() // the whole text, usage, timings
//
// Leaving the loop, by break or return, cancels the generation. A host that is slower than the engine
// holds nobody up, and loses nothing: it gets fewer, longer deltas.
//
// # Contexts
//
// A call returns as soon as its context ends, whatever the engine is doing, and the engine is told to
// stop; what still comes for the request is drained. A deadline travels to the engine, too, so that
// a request whose time is up ends there also if the host is busy; a TimeoutMs in the params goes before it.
//
// # Errors
//
// What the engine answers is an [*Error], with a code, a kind, and data such as the time after which
// to ask again; one that will not answer any more leaves a [*LostError].
//
//	var told *mlxstdio.Error
//	switch {
//	case errors.Is(err, mlxstdio.KindOverloaded) && errors.As(err, &told):
//		select { // and ask again
//		case <-time.After(told.RetryAfter()):
//		case <-ctx.Done():
//		}
//	case errors.Is(err, mlxstdio.KindModelNotFound):
//		// ask the user for another one
//	case errors.Is(err, context.DeadlineExceeded):
//		// the engine's or the context's own
//	}
//
// What a generation had said before it was cut short is in Data.Partial, where it was the engine that
// ended it: after [Stream.Close], after leaving the loop, or after a TimeoutMs of its own that is
// shorter than the context's. A context that has ended ends the call before the engine can say. An engine that has left
// by itself is an [*ExitError], with its exit code or signal and the end of its standard error.
//
// # Looking after it
//
// The engine's standard error is always read: its log goes to Options.Logger, record by record.
// [Client.Done] is closed when the engine has gone for good, and [Client.Err] says why.
//
// With Options.Restart an engine that has left is started again. Requests of which the host has
// seen nothing are sent again, which the log tells; a stream that had begun gets its error, because
// its text cannot be taken back.
//
// [Client.Close] ends the engine's input, so that it finishes what is in flight; then come, each
// after a time, SIGTERM and SIGKILL for its process group.
//
// # Tests of a host
//
// `mlx-stdio fake` is the same engine without models: it starts at once on any machine, and serves
// scripted texts, delays, errors and crashes (docs/fake.md). [NewClient] speaks over any stream, such
// as a [net.Pipe] whose other end is a test (see its example).
package mlxstdio
