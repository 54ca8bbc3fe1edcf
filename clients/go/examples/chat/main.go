// Chat is a chat for the command line: what is typed is asked, and the answer streams.
//
//	chat [flags] [-- the engine's arguments]
//
// Ctrl-C ends the answer that streams, and nothing else; at the prompt it ends the chat, as do /quit
// and the end of the input. /reset forgets the conversation. Answers go to standard output, all else
// to standard error, so that the chat may stand in a pipe.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// settings is what the command line says.
type settings struct {
	engine      string
	arguments   []string
	model       string
	system      string
	maxTokens   int64
	temperature *float64 // nil: the model's own
	verbose     bool
}

func parse(arguments []string, complaints io.Writer) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("chat", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.StringVar(&s.engine, "engine", "", "the engine's `program` (default: $MLX_STDIO, or where it is installed)")
	flags.StringVar(&s.model, "model", "", "`name` or folder of the model (default: the engine's)")
	flags.StringVar(&s.system, "system", "", "`text` that tells the model how to behave")
	flags.Int64Var(&s.maxTokens, "max-tokens", 512, "the longest answer")
	flags.Func("temperature", "`number`; 0 takes the likeliest tokens (default: the model's own)", func(text string) error {
		value, err := strconv.ParseFloat(text, 64)
		s.temperature = &value
		return err
	})
	flags.BoolVar(&s.verbose, "v", false, "tell how fast each answer was")
	flags.Usage = func() {
		fmt.Fprintln(complaints, "usage: chat [flags] [-- the engine's arguments]")
		flags.PrintDefaults()
	}
	err := flags.Parse(arguments)
	s.arguments = flags.Args()
	return s, err
}

func main() {
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr, interrupts))
}

// run is the program, and gives its exit code.
func run(arguments []string, in, out, notes *os.File, interrupts <-chan os.Signal) int {
	settings, err := parse(arguments, notes)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil {
		return 2
	}
	meter := newMeter(notes)
	client, err := start(settings, meter, interrupts)
	if err != nil {
		fmt.Fprintln(notes, "chat:", err)
		return 1
	}
	chat := &chat{client: client, settings: settings, out: out, notes: notes, meter: meter}
	if isTerminal(in) {
		chat.prompt = "> "
	}
	chat.reset()
	err = chat.loop(lines(in), interrupts)
	if closing := client.Close(); err == nil {
		err = closing
	}
	if err != nil {
		fmt.Fprintln(notes, "chat:", brief(err))
		return 1
	}
	return 0
}

// start gives an engine whose model is resident, so that the first question does not wait for it.
func start(s *settings, meter *meter, interrupts <-chan os.Signal) (*mlxstdio.Client, error) {
	ctx, stop := until(interrupts)
	defer stop()
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{
		Command: s.engine,
		Args:    s.arguments,
		Name:    "chat-example",
		Restart: &mlxstdio.Restart{},
		OnExit:  func(exit *mlxstdio.ExitError) { meter.say("%s", brief(exit)) },
		OnRestart: func(attempt int, err error) {
			if err != nil {
				meter.say("start %d has failed: %s", attempt, brief(err))
				return
			}
			meter.say("the engine is started again")
		},
		Load:       &mlxstdio.LoadParams{Model: s.model}, // without a name, the engine's default
		OnProgress: meter.show,
	})
	if err != nil {
		return nil, err
	}
	if s.model == "" {
		s.model = client.Server().DefaultModel
	}
	meter.say("%s is ready", s.model)
	return client, nil
}

// until is a context that an interrupt ends. After stop, interrupts are for whoever reads them next.
func until(interrupts <-chan os.Signal) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-interrupts:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		cancel()
		<-over
	}
}
