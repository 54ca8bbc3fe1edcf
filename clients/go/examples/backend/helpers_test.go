package backend

import (
	"flag"
	"os"
	"path/filepath"
	"testing"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/internal/enginetest"
)

const prompt = "def area(width, height):\n"

// optionsOf start an engine by its command.
func optionsOf(command []string) mlxstdio.Options {
	return mlxstdio.Options{Command: command[0], Args: command[1:], Dir: enginetest.Root()}
}

// TestMain gives the engine of the tests to the package's own Load, which the example calls.
func TestMain(m *testing.M) {
	if command, ok := enginetest.Lookup(); ok {
		shared = New(optionsOf(command))
	} else {
		flag.Parse()
		if err := flag.Set("test.skip", "^Example"); err != nil { // it cannot skip itself
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// realEngine is an engine, not started yet.
func realEngine(t *testing.T, arguments ...string) *Engine {
	t.Helper()
	return New(optionsOf(enginetest.Real(t, arguments...)))
}

func load(t *testing.T, engine *Engine, name string) *Model {
	t.Helper()
	model, err := engine.Load(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = model.Free() }) // again, where the test has done it
	return model
}

func generate(t *testing.T, model *Model, prompt string, maxTokens int) string {
	t.Helper()
	text, err := model.Generate(prompt, maxTokens)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// copyOfPico is another model with the same weights, at a path of its own.
func copyOfPico(t *testing.T) string {
	t.Helper()
	pico := filepath.Join(enginetest.Root(), "mlx_stdio", "pico")
	files, err := os.ReadDir(pico)
	if err != nil {
		t.Skip("no checkout of the engine")
	}
	folder := t.TempDir()
	for _, file := range files {
		if err := os.Symlink(filepath.Join(pico, file.Name()), filepath.Join(folder, file.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return folder
}
