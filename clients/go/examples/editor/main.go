// Editor is the part of a text editor that suggests how a line goes on: it asks at each keystroke,
// and cancels what it has asked at the one before. In place of a user there is a script, whose steps
// are in script.go; in place of a screen, the text is printed, with the suggestion as «this».
//
//	editor [flags] SCRIPT|- [the engine's arguments]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// settings is what the command line says.
type settings struct {
	engine    string
	script    string
	arguments []string
	maxTokens int64
	debounce  time.Duration
	pace      time.Duration
	verbose   bool
}

func parse(arguments []string, complaints io.Writer) (*settings, error) {
	s := &settings{}
	flags := flag.NewFlagSet("editor", flag.ContinueOnError)
	flags.SetOutput(complaints)
	flags.StringVar(&s.engine, "engine", "", "the engine's `program` (default: $MLX_STDIO, or where it is installed)")
	flags.Int64Var(&s.maxTokens, "max-tokens", 24, "the longest suggestion")
	flags.DurationVar(&s.debounce, "debounce", 30*time.Millisecond, "ask when nothing was typed for so long")
	flags.DurationVar(&s.pace, "pace", 60*time.Millisecond, "type so fast: a key each `duration`")
	flags.BoolVar(&s.verbose, "v", false, "tell at the end what the engine had to do")
	flags.Usage = func() {
		fmt.Fprintln(complaints, "usage: editor [flags] SCRIPT|- [the engine's arguments]")
		flags.PrintDefaults()
	}
	if err := flags.Parse(arguments); err != nil {
		return nil, err
	}
	if flags.NArg() == 0 {
		flags.Usage()
		return nil, errors.New("no script")
	}
	s.script, s.arguments = flags.Arg(0), flags.Args()[1:]
	return s, nil
}

func main() {
	settings, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, settings, os.Stdin, os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "editor:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, s *settings, in io.Reader, out, notes io.Writer) (err error) {
	if s.script != "-" {
		file, err := os.Open(s.script)
		if err != nil {
			return err
		}
		defer file.Close()
		in = file
	}
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{
		Command: s.engine,
		Args:    s.arguments,
		Name:    "editor-example",
		Restart: &mlxstdio.Restart{},
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	completer := NewCompleter(client, s.debounce, s.maxTokens, nil)
	defer completer.Close()
	editor := &editor{completer: completer, pace: s.pace, out: out, notes: notes}
	steps, failed := make(chan step), make(chan error, 1)
	go func() { failed <- readSteps(in, steps) }() // where it waits for input, the end of main ends it
	if err := editor.play(ctx, steps); err != nil {
		return err
	}
	if err := <-failed; err != nil {
		return err
	}
	if s.verbose {
		return tell(ctx, client, notes)
	}
	return nil
}

// tell writes what the engine has counted.
func tell(ctx context.Context, client *mlxstdio.Client, notes io.Writer) error {
	status, err := client.Status(ctx)
	if err != nil {
		return err
	}
	count := status.Counters
	fmt.Fprintf(notes, "asked %d times: %d cancelled, %d failed, %d whole; %d tokens generated\n",
		count.Requests, count.Cancelled, count.Failed, count.Completed, count.CompletionTokens)
	return nil
}
