package main

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/internal/enginetest"
)

// serving runs the program in this process, and gives its URL.
func serving(t *testing.T, ctx context.Context, script object, flags ...string) (url string, ended chan error) {
	t.Helper()
	words := enginetest.Fake(t, written(t, script))
	args := append([]string{"-addr", "127.0.0.1:0", "-engine", words[0]}, flags...)
	args = append(append(args, "--"), words[1:]...)
	reading, writing := io.Pipe()
	ended = make(chan error, 1)
	go func() {
		err := runLine(ctx, args, writing)
		_ = writing.CloseWithError(io.ErrUnexpectedEOF)
		ended <- err
	}()
	line, err := bufio.NewReader(reading).ReadString('\n')
	if err != nil {
		t.Fatalf("%v: %v", err, <-ended)
	}
	return strings.TrimSpace(strings.TrimPrefix(line, "listening on ")), ended
}

// What runs when the end comes is finished, and the engine is there for it.
func TestGracefulEnd(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	url, ended := serving(t, ctx, object{"rules": list{
		rule("work", object{"delta": "one "}, object{"delayMs": 500, "delta": "two "}, object{"finish": "stop"}),
	}}, "-grace", "60s")
	response, err := post(context.Background(), url+"/v1/completions", strings.NewReader(`{"prompt":"work","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	work := &reader{t, newLines(response)}
	if got, _ := work.next(); got.Choices[0].Text != "one " {
		t.Errorf("first: %+v", got)
	}
	stop()
	events, text := work.rest()
	if text != "two " || events[len(events)-1].data != "[DONE]" {
		t.Errorf("the rest: %q of %+v", text, events)
	}
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := post(context.Background(), url+"/v1/completions", strings.NewReader(`{}`)); err == nil {
		t.Error("it still answers")
	}
}

// What does not finish within the grace is cut.
func TestEndWithoutGrace(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	url, ended := serving(t, ctx, object{"rules": list{rule("slow", slow)}}, "-grace", "1ms")
	response, err := post(context.Background(), url+"/v1/completions", strings.NewReader(`{"prompt":"slow","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if _, ok := (&reader{t, newLines(response)}).next(); !ok {
		t.Fatal("no event")
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if _, err := io.ReadAll(response.Body); err == nil {
		t.Error("the stream has an end like any other")
	}
}

// An engine that cannot be kept alive ends the program, with the reason.
func TestEngineGoneForGood(t *testing.T) {
	url, ended := serving(t, context.Background(), object{"rules": list{
		object{"method": "generate", "steps": list{object{"exit": 70}}},
	}})
	for {
		response, err := post(context.Background(), url+"/v1/completions", strings.NewReader(`{"prompt":"x"}`))
		if err != nil {
			break // its port is closed
		}
		if response.StatusCode < 500 {
			t.Errorf("status %d", response.StatusCode)
		}
		_ = response.Body.Close()
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), "exit code 70") {
		t.Errorf("ended with %v", err)
	}
}

func TestBounds(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	url, ended := serving(t, ctx, object{}, "-max-body", "100")
	for _, row := range []struct {
		kind, body string
		status     int
	}{
		{"application/json", `{"prompt":"x"}`, 200},
		{"application/json", `{"prompt":"` + strings.Repeat("x", 100) + `"}`, 413},
		{"text/plain", `{"prompt":"x"}`, 415},
		{"", `{"prompt":"x"}`, 415},
	} {
		response, err := http.Post(url+"/v1/completions", row.kind, strings.NewReader(row.body))
		if err != nil {
			t.Fatal(err)
		}
		var got reply
		err = json.NewDecoder(response.Body).Decode(&got)
		_ = response.Body.Close()
		if err != nil || response.StatusCode != row.status || (got.Error == nil) != (row.status == 200) {
			t.Errorf("%s, %d bytes: status %d, %v", row.kind, len(row.body), response.StatusCode, err)
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// runLine is the program with a command line.
func runLine(ctx context.Context, args []string, stdout io.Writer) error {
	chosen, err := parse(args, io.Discard)
	if err == nil {
		err = run(ctx, chosen, stdout, io.Discard)
	}
	return err
}

func TestCommandLine(t *testing.T) {
	ctx := context.Background()
	if err := runLine(ctx, []string{"-nonsense"}, io.Discard); err == nil {
		t.Error("an unknown flag was taken")
	}
	if err := runLine(ctx, []string{"-addr", "127.0.0.1:0", "-engine", "/no/such"}, io.Discard); err == nil {
		t.Error("an engine that is not there was started")
	}
	if err := runLine(ctx, []string{"-addr", "no address"}, io.Discard); err == nil {
		t.Error("no address is one")
	}
}
