package mlxstdio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// CommandVariable names the environment variable that has the path of the engine's program.
const CommandVariable = "MLX_STDIO"

// ErrNotFound is the error of [Find]; and [Start]'s is one, too, where the program that it was told to
// spawn is not there.
var ErrNotFound = errors.New("there is no mlx-stdio: install it (`uv tool install mlx-stdio`, " +
	"`pipx install mlx-stdio`), put it beside the host's program, or set " + CommandVariable)

// Find looks for the engine, in this order: $MLX_STDIO; beside the host's own program, as `mlx-stdio`
// or as `mlx-stdio/mlx-stdio` (the folder of the standalone build); on the PATH; in ~/.local/bin,
// where uv and pipx put it, which a desktop application's PATH lacks. The host's own program, which may
// have that name, is passed over: it would spawn itself.
func Find() (string, error) {
	if given := os.Getenv(CommandVariable); given != "" {
		found, err := exec.LookPath(given)
		if err != nil {
			return "", fmt.Errorf("$%s names %q: %w", CommandVariable, given, missing(err))
		}
		return found, nil
	}
	const name = "mlx-stdio"
	var own fs.FileInfo
	var places []string
	if path, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			path = real
		}
		own, _ = os.Stat(path)
		folder := filepath.Dir(path)
		places = append(places, filepath.Join(folder, name), filepath.Join(folder, name, name))
	}
	for _, folder := range filepath.SplitList(os.Getenv("PATH")) {
		if filepath.IsAbs(folder) { // os/exec refuses others, too
			places = append(places, filepath.Join(folder, name))
		}
	}
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, ".local", "bin", name))
	}
	for _, place := range places {
		found, err := exec.LookPath(place)
		if err != nil {
			continue
		}
		if program, err := os.Stat(found); err != nil || !os.SameFile(program, own) {
			return found, nil
		}
	}
	return "", ErrNotFound
}

// missingError is [ErrNotFound] in other words.
type missingError struct{ cause error }

func (e *missingError) Error() string { return e.cause.Error() }

func (e *missingError) Unwrap() []error { return []error{ErrNotFound, e.cause} }

// missing makes one of an error that tells of a program that is not there, by its name or by its path.
func missing(err error) error {
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return &missingError{err}
	}
	return err
}
