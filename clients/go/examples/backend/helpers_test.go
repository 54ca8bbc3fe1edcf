package backend

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

const prompt = "def area(width, height):\n"

// root is the repository, seen from this folder.
const root = "../../../.."

// realOptions start the command of $MLX_STDIO_COMMAND, or the engine of this checkout; false where
// there is none.
func realOptions() (mlxstdio.Options, bool) {
	command := strings.Fields(os.Getenv("MLX_STDIO_COMMAND"))
	if len(command) == 0 {
		python, err := filepath.Abs(filepath.Join(root, ".venv", "bin", "python"))
		if err != nil {
			return mlxstdio.Options{}, false
		}
		if _, err := os.Stat(python); err != nil {
			return mlxstdio.Options{}, false
		}
		command = []string{python, "-m", "mlx_stdio"}
	}
	return mlxstdio.Options{Command: command[0], Args: command[1:], Dir: root}, true
}

// TestMain gives the engine of the tests to the package's own Load, which the example calls.
func TestMain(m *testing.M) {
	if options, ok := realOptions(); ok {
		shared = New(options)
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
	options, ok := realOptions()
	if !ok {
		t.Skip("no engine: run `make setup`, or set MLX_STDIO_COMMAND")
	}
	options.Args = append(options.Args, arguments...)
	return New(options)
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
	pico, err := filepath.Abs(filepath.Join(root, "mlx_stdio", "pico"))
	if err != nil {
		t.Fatal(err)
	}
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
