package mlxstdio

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestFind(t *testing.T) {
	folder := t.TempDir()
	program := filepath.Join(folder, "mlx-stdio")
	if err := os.WriteFile(program, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("HOME", folder)
	t.Setenv("PATH", "/usr/bin:/bin")
	t.Setenv(CommandVariable, "")
	if found, err := Find(); !errors.Is(err, ErrNotFound) {
		t.Skipf("this machine has one: %s", found)
	}
	if _, err := Start(limited(t), Options{}); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %v", err)
	}
	t.Setenv("PATH", "/usr/bin:"+folder)
	if found, err := Find(); err != nil || found != program {
		t.Errorf("got %s, %v", found, err)
	}
	t.Setenv("PATH", "/usr/bin")
	local := filepath.Join(folder, ".local", "bin")
	if err := errors.Join(os.MkdirAll(local, 0o700), os.Rename(program, filepath.Join(local, "mlx-stdio"))); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(); err != nil || found != filepath.Join(local, "mlx-stdio") {
		t.Errorf("got %s, %v", found, err)
	}
	t.Setenv(CommandVariable, "/nowhere/engine")
	if found, err := Find(); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `$MLX_STDIO names "/nowhere/engine"`) {
		t.Errorf("got %s, %v", found, err)
	}
}

// A host whose own program has the engine's name does not spawn itself, wherever it lies.
func TestFindPassesOverTheHost(t *testing.T) {
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	first, second := t.TempDir(), t.TempDir()
	t.Setenv("HOME", first)
	t.Setenv("PATH", first+":"+second)
	t.Setenv(CommandVariable, "")
	if err := os.Symlink(own, filepath.Join(first, "mlx-stdio")); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(); !errors.Is(err, ErrNotFound) {
		t.Errorf("got %s, %v", found, err)
	}
	engine := filepath.Join(second, "mlx-stdio")
	if err := os.WriteFile(engine, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if found, err := Find(); err != nil || found != engine {
		t.Errorf("got %s, %v", found, err)
	}
}

// What a host tells its user by: the engine is not installed, or something else is wrong.
func TestWhatIsNotThere(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	missing := filepath.Join(folder, "missing")
	for name, row := range map[string]struct {
		options Options
		found   bool
		cause   error
		want    string
	}{
		"a name":             {Options{Command: "no-such-mlx-stdio"}, false, exec.ErrNotFound, "no-such-mlx-stdio"},
		"a path":             {Options{Command: missing}, false, fs.ErrNotExist, missing},
		"a command":          {Options{Cmd: exec.Command("no-such-mlx-stdio")}, false, exec.ErrNotFound, "no-such-mlx-stdio"},
		"no program":         {Options{Command: file}, true, fs.ErrPermission, file},
		"no folder":          {Options{Command: "/bin/true", Dir: missing}, true, fs.ErrNotExist, "working directory"},
		"a command's folder": {Options{Cmd: &exec.Cmd{Path: "/bin/true", Dir: missing}}, true, fs.ErrNotExist, "working directory"},
	} {
		_, err := Start(limited(t), row.options)
		if errors.Is(err, ErrNotFound) == row.found || !errors.Is(err, row.cause) || !strings.Contains(err.Error(), row.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
