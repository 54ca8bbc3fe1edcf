package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/internal/enginetest"
)

func TestMain(m *testing.M) { enginetest.Main(m, main) }

// editorWith starts the editor with an engine, and a script or, for "-", its input.
func editorWith(t *testing.T, engine []string, script string, flags ...string) *enginetest.Program {
	t.Helper()
	arguments := append([]string{"-v", "-engine", engine[0]}, flags...)
	return enginetest.Run(t, append(append(arguments, script), engine[1:]...)...)
}

// counted reads the last line of what the program says with -v.
func counted(t *testing.T, editor *enginetest.Program) (asked, cancelled, failed, whole int) {
	t.Helper()
	if code := editor.Wait(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	lines := strings.Split(strings.TrimSpace(editor.Err.All()), "\n")
	_, err := fmt.Sscanf(lines[len(lines)-1], "asked %d times: %d cancelled, %d failed, %d whole",
		&asked, &cancelled, &failed, &whole)
	if err != nil {
		t.Fatalf("%v: %q", err, lines)
	}
	return asked, cancelled, failed, whole
}

// Fifty keystrokes with a real model: what is shown in the end is what the whole text gives alone.
func TestRealEngine(t *testing.T) {
	typed := "def multiply(first, second):\n    return first * se"
	if len(typed) != 50 {
		t.Fatal(len(typed))
	}
	script := filepath.Join(t.TempDir(), "keys")
	steps := "type " + strings.ReplaceAll(typed, "\n", `\n`) + "\nwait\n"
	if err := os.WriteFile(script, []byte(steps), 0o600); err != nil {
		t.Fatal(err)
	}
	editor := editorWith(t, enginetest.Real(t), script, "-debounce", "0s", "-pace", "5ms", "-max-tokens", "8")
	asked, cancelled, failed, whole := counted(t, editor)
	t.Logf("asked %d times: %d cancelled, %d whole", asked, cancelled, whole)
	if cancelled == 0 || failed != 0 || whole == 0 || asked > 50 {
		t.Error("these numbers cannot be")
	}
	alone, err := startClient(t, enginetest.Real(t)).Infill(limited(t), &mlxstdio.InfillParams{Prefix: typed,
		Generation: mlxstdio.Generation{MaxTokens: 8, Temperature: mlxstdio.Ptr(0.0), Stop: []string{blankLine}}})
	if err != nil {
		t.Fatal(err)
	}
	if shown, whole := editor.Out.All(), typed+"«"+alone.Text+"»\n---\n"; shown != whole {
		t.Errorf("shown is %q, not %q", shown, whole)
	}
}

// A request that surely runs is cancelled by what is typed next, and leaves nothing on the screen.
func TestTypesOn(t *testing.T) {
	editor := editorWith(t, enginetest.Fake(t, `{"rules": [
		{"method": "infill", "params": {"prefix": "0123456789012345678901234567890123456789012345678"},
			"steps": [{"delta": "last"}]},
		{"method": "infill", "steps": [{"delta": "old"}, {"silent": true}]}]}`), "-", "-debounce", "0s", "-pace", "1ms")
	editor.Type("type 0\n")
	enginetest.Eventually(t, "the first is shown", func() bool {
		editor.Type("show\n")
		return strings.Contains(editor.Out.Until("---\n"), "0«old»")
	})
	editor.Type("type 123456789012345678901234567890123456789012345678\nwait\naccept\nbackspace\nshow\n")
	shown := editor.Out.Until("---\n") + editor.Out.Until("---\n")
	want := "0123456789012345678901234567890123456789012345678«last»\n---\n" +
		"0123456789012345678901234567890123456789012345678las«"
	if !strings.HasPrefix(shown, want) {
		t.Errorf("shown is %q", shown)
	}
	editor.EndInput()
	if _, cancelled, failed, whole := counted(t, editor); cancelled < 1 || failed != 0 || whole != 1 {
		t.Errorf("%d cancelled, %d failed, %d whole", cancelled, failed, whole)
	}
}

// What goes wrong stands beside the text, and the script goes on.
func TestErrorsGoOn(t *testing.T) {
	editor := editorWith(t, enginetest.Fake(t, `{"rules": [{"method": "infill", "params": {"prefix": "é"},
		"steps": [{"error": {"kind": "overloaded", "message": "busy"}}]}]}`), "-", "-debounce", "0s")
	editor.Type("type é\nwait\n")
	editor.Err.Until("busy")
	editor.Type("type a\nleft\nright\nenter 2\npause 1ms\nbackspace 2\nbackspace\nwait\n")
	editor.Type("type (\n")
	editor.Type("wait\n")
	if shown := editor.Out.Until("é(«é(»\n---\n"); !strings.Contains(shown, "é«»") {
		t.Errorf("shown is %q", shown)
	}
	editor.EndInput()
	if _, _, failed, _ := counted(t, editor); failed == 0 {
		t.Error("nothing has failed")
	}
}

func TestBadScripts(t *testing.T) {
	engine := enginetest.Fake(t, `{}`)
	for _, line := range []string{"fly", "left far", "pause 3", "wait here"} {
		editor := editorWith(t, engine, "-")
		editor.Type("# fine\n" + line + "\n")
		if code := editor.Wait(); code != 1 || !strings.Contains(editor.Err.All(), "line 2") {
			t.Errorf("%q: exit code %d, %q", line, code, editor.Err.All())
		}
	}
	for _, arguments := range [][]string{{}, {"-pace"}} {
		if code := enginetest.Run(t, arguments...).Wait(); code != 2 {
			t.Errorf("%q: exit code %d", arguments, code)
		}
	}
	if code := editorWith(t, engine, filepath.Join(t.TempDir(), "none")).Wait(); code != 1 {
		t.Errorf("no script: exit code %d", code)
	}
}

func TestSteps(t *testing.T) {
	for line, want := range map[string]step{
		`type  two\s`:       {verb: "type", text: " two ", count: 1},
		`type a\tb\n\\n`:    {verb: "type", text: "a\tb\n\\n", count: 1},
		`left 3`:            {verb: "left", count: 3},
		`pause 20ms`:        {verb: "pause", count: 1, span: 20 * time.Millisecond},
		`wait`:              {verb: "wait", count: 1},
		`type # no comment`: {verb: "type", text: "# no comment", count: 1},
	} {
		if got, err := parseStep(line); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", line, got, err)
		}
	}
}

func TestBuffer(t *testing.T) {
	var b buffer
	b.backspace()
	b.left()
	b.right()
	b.insert("aé")
	b.left()
	b.insert("x")
	b.left()
	b.left()
	b.right()
	b.backspace()
	if b.shown("?") != "«?»xé" {
		t.Error(b.shown("?"))
	}
	b.right()
	b.right()
	b.right()
	if b.shown("") != "xé«»" {
		t.Error(b.shown(""))
	}
}
