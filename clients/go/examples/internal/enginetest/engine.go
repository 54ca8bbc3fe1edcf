// Package enginetest has what the tests of the examples share: engines, and the examples themselves
// as processes with pipes.
package enginetest

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// Patience is how long a test waits before it fails; never a measure of speed.
const Patience = 60 * time.Second

// Variable has another engine's command for the tests: `mlx-stdio`, or one with arguments.
const Variable = "MLX_STDIO_COMMAND"

// Root is the checkout's folder, in which all commands are run.
func Root() string {
	_, file, _, _ := runtime.Caller(0)
	return filepath.Join(filepath.Dir(file), "..", "..", "..", "..", "..")
}

// Real is the command of an engine: that of $MLX_STDIO_COMMAND, or of this checkout.
func Real(t testing.TB, options ...string) []string {
	t.Helper()
	command, ok := Lookup()
	if !ok {
		skip(t)
	}
	return append(command, options...)
}

// Lookup is the same where there is no test to be skipped.
func Lookup() (command []string, ok bool) {
	if given := strings.Fields(os.Getenv(Variable)); len(given) > 0 {
		return given, true
	}
	return checkout()
}

// Fake is the command of a fake engine with a script; see docs/fake.md.
func Fake(t testing.TB, script string, options ...string) []string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "script.json")
	if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
		t.Fatal(err)
	}
	command, ok := checkout()
	if !ok {
		skip(t)
	}
	return append(append(command, "fake", "--script", file), options...)
}

func checkout() (command []string, ok bool) {
	python := filepath.Join(Root(), ".venv", "bin", "python")
	_, err := os.Stat(python)
	return []string{python, "-m", "mlx_stdio"}, err == nil
}

func skip(t testing.TB) {
	t.Helper()
	t.Skipf("no engine: run `make setup`, or set %s", Variable)
}

// Eventually waits until something holds.
func Eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(Patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}
