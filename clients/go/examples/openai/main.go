// Command openai is an HTTP front in the host: it turns OpenAI-style requests into calls of one
// mlx-stdio engine, so that existing OpenAI clients work through a Go host. The engine itself never
// opens a port.
//
//	openai [flags] [-- arguments of the engine]
//	openai -addr 127.0.0.1:8080 -- --models-dir /models --model mine
//
// It answers POST /v1/chat/completions, POST /v1/completions, GET /v1/models and GET /healthz.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// settings are what the command line says.
type settings struct {
	addr    string
	command string
	args    []string
	grace   time.Duration
	limits  limits
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	chosen, err := parse(os.Args[1:], os.Stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return
	case err != nil: // which the flags have told
		os.Exit(2)
	}
	err = run(ctx, chosen, os.Stdout, os.Stderr)
	if err != nil {
		fmt.Fprintln(os.Stderr, "openai:", err)
		os.Exit(1)
	}
}

// run serves until the context ends, or the engine is gone for good.
func run(ctx context.Context, chosen settings, stdout, stderr io.Writer) error {
	log := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	// A port that is taken shall not cost the start of an engine.
	listener, err := net.Listen("tcp", chosen.addr)
	if err != nil {
		return err
	}
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{
		Command: chosen.command,
		Args:    chosen.args,
		Name:    "openai-front",
		Logger:  log,
		Restart: &mlxstdio.Restart{},
	})
	if err != nil {
		_ = listener.Close()
		return err
	}
	// Port 0 becomes a real one; who started this program reads it here.
	fmt.Fprintf(stdout, "listening on http://%s\n", listener.Addr())
	return serve(ctx, listener, client, newFront(client, log, chosen.limits), chosen.grace)
}

func parse(args []string, stderr io.Writer) (settings, error) {
	chosen := settings{limits: defaultLimits}
	flags := flag.NewFlagSet("openai", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&chosen.addr, "addr", "127.0.0.1:8080",
		"`address` to listen on; beyond this machine there is no protection of any kind")
	flags.StringVar(&chosen.command, "engine", "", "the engine's `program` (default: what the client finds)")
	flags.DurationVar(&chosen.grace, "grace", 10*time.Second, "how long requests may go on at the end")
	flags.DurationVar(&chosen.limits.timeout, "timeout", 0, "most `time` for a request (default: no limit)")
	flags.Int64Var(&chosen.limits.body, "max-body", defaultLimits.body, "most `bytes` of a request")
	err := flags.Parse(args)
	chosen.args = flags.Args()
	return chosen, err
}

// serve answers until the context ends, or the engine is gone for good. It ends in this order: no
// new connections; requests finish, or are cut after the grace; only then the engine, which they
// need.
func serve(ctx context.Context, listener net.Listener, client *mlxstdio.Client, f *front, grace time.Duration) error {
	server := &http.Server{
		Handler:           f.routes(),
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		ErrorLog:          slog.NewLogLogger(f.log.Handler(), slog.LevelWarn),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	var reason error
	select {
	case <-ctx.Done():
	case <-client.Done():
		reason = client.Err()
	case reason = <-served:
	}
	limit, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if server.Shutdown(limit) != nil {
		_ = server.Close() // ends their contexts, which cancels what they wait for
	}
	if err := client.Close(); reason == nil {
		reason = err
	}
	return reason
}
