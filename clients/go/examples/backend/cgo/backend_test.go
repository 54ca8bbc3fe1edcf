package cgo

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func TestBackend(t *testing.T) {
	pico, err := filepath.Abs("../../../../../mlx_stdio/pico")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(pico); err != nil || Python == "" {
		t.Skip("run it by with-python.sh, in a checkout of the engine")
	}
	if _, err := Load("/no/such/model"); err == nil {
		t.Error("a model that is not there: no error")
	}
	first, err := Load(pico)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Load(pico)
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for _, model := range []*Model{first, second, first, second} {
		wait.Add(1)
		go func() {
			defer wait.Done()
			text, err := model.Generate("def add(a, b):\n    return", 3)
			if err != nil || strings.TrimSpace(text) != "a + b" {
				t.Errorf("%q, %v", text, err)
			}
		}()
	}
	wait.Wait()
	if err := first.Free(); err != nil {
		t.Error(err)
	}
	if _, err := first.Generate("def", 1); !errors.Is(err, ErrFreed) {
		t.Errorf("Generate after Free: %v", err)
	}
	if _, err := second.Generate("def", 1); err != nil {
		t.Error(err)
	}
}
