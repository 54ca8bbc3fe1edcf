package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend/internal/host"
)

// poison is a model whose code reads address 0, once it is armed: a fault in the engine's own process,
// the same for both.
type poison struct{ folder string }

const poisonCode = `import ctypes
from pathlib import Path

from mlx_lm.models import llama
from mlx_lm.models.llama import ModelArgs


class Model(llama.Model):
    def __call__(self, *args, **named):
        if (Path(__file__).parent / "armed").exists():
            ctypes.string_at(0)
        return super().__call__(*args, **named)
`

func makePoison(model, folder string) (*poison, error) {
	p := &poison{filepath.Join(folder, "poison")}
	if err := os.Mkdir(p.folder, 0o755); err != nil {
		return nil, err
	}
	files, err := os.ReadDir(model)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if file.Name() == "config.json" {
			continue
		}
		if err := os.Symlink(filepath.Join(model, file.Name()), filepath.Join(p.folder, file.Name())); err != nil {
			return nil, err
		}
	}
	config := map[string]any{}
	data, err := os.ReadFile(filepath.Join(model, "config.json"))
	if err == nil {
		err = json.Unmarshal(data, &config)
	}
	config["model_file"] = "poison.py"
	changed, _ := json.Marshal(config)
	return p, errors.Join(err, os.WriteFile(filepath.Join(p.folder, "config.json"), changed, 0o644),
		os.WriteFile(filepath.Join(p.folder, "poison.py"), []byte(poisonCode), 0o644))
}

func (p *poison) armed() string { return filepath.Join(p.folder, "armed") }

// crash is what became of a host.
type crash struct {
	fate string
	lost bool // the host is gone

	failed float64 // until the call that crashed had its error
	next   float64 // the next call, of another model
	killed float64 // the next call after a SIGSEGV while nothing was asked
}

func (c *contender) fall(model string, p *poison) (*crash, error) {
	_ = os.Remove(p.armed())
	r, err := c.spawn(c.trust...)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.end() }()
	for _, each := range []string{model, p.folder} {
		if _, err := r.do(host.Command{Do: "load", Model: each}); err != nil {
			return nil, err
		}
	}
	generate := func(name string) (*host.Answer, error) {
		return r.ask(host.Command{Do: "generate", Model: name, Prompts: []string{"def area(w, h):\n"}, MaxTokens: 1})
	}
	for _, each := range []string{model, p.folder} { // both are well so far
		if answer, err := generate(each); err != nil || answer.Error != "" {
			return nil, fmt.Errorf("before the crash: %v, %v", answer, err)
		}
	}
	if err := os.WriteFile(p.armed(), nil, 0o644); err != nil {
		return nil, err
	}
	began := time.Now()
	answer, err := generate(p.folder)
	failed := sinceMs(began)
	if err != nil {
		state := r.end()
		return &crash{fate: fmt.Sprintf("is gone (%s: `%s`)", describe(state), firstLine(r.stderr.String())), lost: true}, nil
	}
	if answer.Error == "" {
		return nil, errors.New("it has not crashed")
	}
	told, _, _ := strings.Cut(answer.Error, ": {") // without the end of the engine's log
	made := &crash{failed: failed, fate: "lives, and was told `" + clip(told) + "`"}
	if made.next, err = answered(generate, model); err != nil {
		return nil, err
	}
	engine, err := r.do(host.Command{Do: "engine"})
	if err != nil {
		return nil, err
	}
	if engine.PID <= 0 { // to the kernel, a whole group
		return nil, errors.New("there is no engine")
	}
	if err := syscall.Kill(engine.PID, syscall.SIGSEGV); err != nil {
		return nil, err
	}
	made.killed, err = answered(generate, model)
	return made, err
}

func answered(generate func(string) (*host.Answer, error), model string) (float64, error) {
	began := time.Now()
	answer, err := generate(model)
	if err == nil && answer.Error != "" {
		err = errors.New(answer.Error)
	}
	return sinceMs(began), err
}

func sinceMs(began time.Time) float64 { return float64(time.Since(began).Microseconds()) / 1000 }

func describe(state error) string {
	var exit *exec.ExitError
	if errors.As(state, &exit) {
		return exit.String()
	}
	return fmt.Sprint(state)
}

func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	return clip(line)
}
