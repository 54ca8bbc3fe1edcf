package backend

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// kill ends the engine, which is the host's own child, as a crash in it would.
func kill(t *testing.T, pid int) {
	t.Helper()
	if pid <= 0 { // to the kernel, a whole group
		t.Fatal("there is no engine")
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}

func TestCrashBetweenCalls(t *testing.T) {
	engine := realEngine(t)
	pico, other := load(t, engine, "pico"), load(t, engine, copyOfPico(t))
	texts := [2]string{generate(t, pico, prompt, 8), generate(t, other, prompt, 8)}
	first := engine.Client().Pid()
	kill(t, first)
	if again := [2]string{generate(t, pico, prompt, 8), generate(t, other, prompt, 8)}; again != texts {
		t.Errorf("after the crash: %q, before it: %q", again, texts)
	}
	if engine.Client().Pid() == first {
		t.Error("it is the same engine")
	}
	if err := other.Free(); err != nil {
		t.Error(err)
	}
}

// The calls that were in flight are answered by the next engine.
func TestCrashDuringCalls(t *testing.T) {
	engine := realEngine(t)
	model := load(t, engine, "pico")
	prompts := func(i int) string { return fmt.Sprintf("x = %d\n\n%s", i, prompt) }
	const calls = 4
	var alone, crossed [calls]string
	for i := range calls {
		alone[i] = generate(t, model, prompts(i), 48)
	}
	var wait sync.WaitGroup
	for i := range calls {
		wait.Add(1)
		go func() {
			defer wait.Done()
			text, err := model.Generate(prompts(i), 48)
			if err != nil {
				t.Error(err)
			}
			crossed[i] = text
		}()
	}
	time.Sleep(20 * time.Millisecond) // 48 tokens take several times as long
	first := engine.Client().Pid()
	kill(t, first)
	wait.Wait()
	if alone != crossed {
		t.Errorf("the texts differ:\n%q\n%q", alone, crossed)
	}
	if engine.Client().Pid() == first {
		t.Error("the calls had ended before the crash")
	}
}

// A prompt that ends each engine that gets it is an error in the end; the others go on.
func TestPromptThatCrashes(t *testing.T) {
	script := filepath.Join(t.TempDir(), "script.json")
	rule := `{"rules": [{"method": "generate", "params": {"prompt": "crash"}, "steps": [{"signal": "SIGSEGV"}]}]}`
	if err := os.WriteFile(script, []byte(rule), 0o600); err != nil {
		t.Fatal(err)
	}
	engine := realEngine(t, "fake", "--script", script)
	model := load(t, engine, "fake")
	_, err := model.Generate("crash", 4)
	var exit *mlxstdio.ExitError
	if !errors.As(err, &exit) || exit.Signal != syscall.SIGSEGV {
		t.Errorf("no exit by SIGSEGV: %v", err)
	}
	if text := generate(t, model, "good", 4); text != "good" {
		t.Errorf("the next call: %q", text)
	}
}

// Where the client has ended, as after too many crashes, whoever asks again gets a new one.
func TestClientThatHasEnded(t *testing.T) {
	engine := realEngine(t, "fake")
	model := load(t, engine, "fake")
	first := engine.Client()
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	if text := generate(t, model, "good", 4); text != "good" {
		t.Errorf("the next call: %q", text)
	}
	if engine.Client() == first {
		t.Error("it is the same client")
	}
}
