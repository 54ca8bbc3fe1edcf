package mlxstdio_test

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// engine is the command of the examples: the fake engine of this checkout, which repeats what it is
// told, so that they can be checked. A host leaves Options.Cmd out, or names its own.
func engine() *exec.Cmd {
	cmd := exec.Command("../../.venv/bin/python", "-m", "mlx_stdio", "fake")
	if given := strings.Fields(os.Getenv("MLX_STDIO_FAKE")); len(given) > 0 {
		cmd = exec.Command(given[0], given[1:]...)
	}
	return cmd
}

func Example() {
	ctx := context.Background()
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{Cmd: engine()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	result, err := client.Generate(ctx, &mlxstdio.GenerateParams{
		Prompt:     mlxstdio.Prompt("Hello, world. And so on."),
		Generation: mlxstdio.Generation{Stop: []string{" And"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Text, result.FinishReason)
	// Output: Hello, world. stop
}

// A test of a host may play the engine itself, where `mlx-stdio fake` is too much.
func ExampleNewClient() {
	ours, theirs := net.Pipe()
	go func() {
		defer theirs.Close()
		lines := bufio.NewScanner(theirs)
		for lines.Scan() {
			var said struct {
				ID     json.RawMessage
				Method string
			}
			if err := json.Unmarshal(lines.Bytes(), &said); err != nil || said.ID == nil {
				continue // a notification, such as a cancel, has no answer
			}
			fmt.Fprintf(theirs, `{"jsonrpc":"2.0","id":%s,"result":{"text":"played","finishReason":"stop"}}`+"\n", said.ID)
		}
	}()
	client := mlxstdio.NewClient(ours, mlxstdio.Options{})
	defer client.Close()
	result, err := client.Generate(context.Background(), &mlxstdio.GenerateParams{Prompt: mlxstdio.Prompt("Hello")})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Text)
	// Output: played
}

func ExampleClient_Stream() {
	ctx := context.Background()
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{Cmd: engine()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	stream, err := client.Stream(ctx, &mlxstdio.ChatParams{
		Messages: []mlxstdio.ChatMessage{mlxstdio.System("Be brief."), mlxstdio.User("Yes or no?")},
	})
	if err != nil {
		log.Fatal(err)
	}
	for delta, err := range stream.Deltas() {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Print(delta.Text)
	}
	result, err := stream.Result()
	fmt.Println("", result.Usage.CompletionTokens, err)
	// Output: Yes or no? 11 <nil>
}

func ExampleClient_Load() {
	ctx := context.Background()
	client, err := mlxstdio.Start(ctx, mlxstdio.Options{Cmd: engine()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	loaded, err := client.Load(ctx, &mlxstdio.LoadParams{Model: "fake", Pin: mlxstdio.Ptr(true)},
		mlxstdio.OnProgress(func(p mlxstdio.Progress) {
			if p.Completed == p.Total {
				fmt.Println("all", p.Unit, "are read")
			}
		}))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(loaded.Model.ID, loaded.Model.State)
	_, err = client.Load(ctx, &mlxstdio.LoadParams{Model: "another"})
	fmt.Println(errors.Is(err, mlxstdio.KindModelNotFound))
	// Output:
	// all bytes are read
	// fake ready
	// true
}

func ExampleError() {
	client, err := mlxstdio.Start(context.Background(), mlxstdio.Options{Cmd: engine()})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = client.Generate(ctx, &mlxstdio.GenerateParams{
		Prompt:     mlxstdio.Prompt("round and round "),
		Generation: mlxstdio.Generation{MaxTokens: 8000, IgnoreEos: mlxstdio.Ptr(true)},
	})
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}
