package mlxstdio

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A host that is killed with SIGKILL cannot end its engine; the engine has to see it by itself,
// whatever it is doing. The host is this test's own program, run again with this variable.
const hostVariable = "MLX_STDIO_TEST_HOST"

// hostPlan is what the second host is to do.
type hostPlan struct {
	Phase   string
	Command []string
	Folder  string // of the engine
	Model   string
	Refusal syscall.Errno
}

// otherHosts are for tests of one system only, by their phase.
var otherHosts = map[string]func(hostPlan) error{}

func TestTheEngineDoesNotOutliveItsHost(t *testing.T) {
	engine := realEngine(t, "--trust-remote-code", "--max-concurrent", "4")
	roomy := modelLike(t, map[string]any{"max_position_embeddings": 1 << 20}, "")
	held := modelLike(t, map[string]any{"model_file": "code.py"}, gate)
	for _, plan := range []hostPlan{
		{Phase: "idle"},
		{Phase: "loading", Model: held},
		{Phase: "prefill", Model: roomy},
		{Phase: "decoding", Model: roomy},
	} {
		t.Run(plan.Phase, func(t *testing.T) {
			plan.Command, plan.Folder = engine.Args, engine.Dir
			quickest := time.Duration(1 << 62)
			for range 3 { // the machine may be busy once
				quickest = min(quickest, killHost(t, plan))
				if quickest < time.Second {
					break
				}
			}
			t.Logf("gone after %v", quickest)
			if quickest > time.Second {
				t.Errorf("the engine lived on for %v", quickest)
			}
		})
	}
}

// killHost tells how long the engine lives after the host's end.
func killHost(t *testing.T, plan hostPlan) time.Duration {
	t.Helper()
	data, err := json.Marshal(plan)
	if err != nil {
		t.Fatal(err)
	}
	host := exec.Command(os.Args[0])
	host.Env = append(os.Environ(), hostVariable+"="+string(data))
	host.Stderr = os.Stderr
	output, err := host.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := host.Start(); err != nil {
		t.Fatal(err)
	}
	defer host.Wait()
	line, err := bufio.NewReader(output).ReadString('\n')
	var pid int
	if _, scan := fmt.Sscanf(line, "ready %d", &pid); scan != nil {
		_ = host.Process.Kill()
		t.Fatalf("the host said %q, %v", line, err)
	}
	if !alive(pid) {
		t.Fatal("there is no engine")
	}
	if err := host.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	eventually(t, "the engine is gone", func() bool { return !alive(pid) })
	return time.Since(began)
}

// alive tells whether a process runs; one that nobody has reaped does not.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return !os.IsNotExist(err) || !exists("/proc/self")
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// modelLike is a copy of pico with another config, and perhaps with code of its own.
func modelLike(t *testing.T, changes map[string]any, code string) string {
	t.Helper()
	source, folder := "../../mlx_stdio/pico", t.TempDir()
	entries, err := os.ReadDir(source)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		data, err := os.ReadFile(filepath.Join(source, entry.Name()))
		if entry.IsDir() || err != nil {
			continue
		}
		if entry.Name() == "config.json" {
			var config map[string]any
			if err := json.Unmarshal(data, &config); err != nil {
				t.Fatal(err)
			}
			for name, value := range changes {
				config[name] = value
			}
			if data, err = json.Marshal(config); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(folder, entry.Name()), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if code != "" {
		if err := os.WriteFile(filepath.Join(folder, "code.py"), []byte(code), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := syscall.Mkfifo(filepath.Join(folder, "gate"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// A load that does not end: it reads from a pipe into which nobody writes.
const gate = `
from pathlib import Path
from mlx_lm.models.llama import Model as Llama, ModelArgs

class Model(Llama):
    def sanitize(self, weights):
        (Path(__file__).parent / "gate").read_bytes()
        return super().sanitize(weights)
`

// beHost is the second host's program: it brings its engine into a phase, says so, and stays there.
func beHost(data string) int {
	var plan hostPlan
	if err := json.Unmarshal([]byte(data), &plan); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if play := otherHosts[plan.Phase]; play != nil {
		if err := play(plan); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return 0
	}
	cmd := exec.Command(plan.Command[0], plan.Command[1:]...)
	cmd.Dir = plan.Folder
	ctx := context.Background()
	c, err := Start(ctx, Options{Cmd: cmd})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	ready := func() { fmt.Printf("ready %d\n", c.Pid()) }
	reached := false
	report := OnProgress(func(p Progress) {
		if string(p.Phase) == plan.Phase && !reached {
			reached = true
			time.Sleep(100 * time.Millisecond) // well within it
			ready()
		}
	})
	generation := Generation{Model: plan.Model, IgnoreEos: Ptr(true), MaxTokens: 100_000}
	switch plan.Phase {
	case "idle":
		ready()
		<-c.Done()
	case "loading":
		_, err = c.Load(ctx, &LoadParams{Model: plan.Model}, report)
	case "prefill":
		tokens := make([]int64, 100_000)
		_, err = c.Generate(ctx, &GenerateParams{Generation: generation, Prompt: PromptTokens(tokens)}, report)
	case "decoding":
		stream, failed := c.Stream(ctx, &GenerateParams{Generation: generation, Prompt: Prompt("def f")})
		if err = failed; err == nil {
			for delta, failed := range stream.Deltas() {
				if err = failed; delta.Seq == 5 {
					ready()
				}
			}
		}
	}
	fmt.Fprintln(os.Stderr, "the engine has left its phase:", err)
	return 1
}
