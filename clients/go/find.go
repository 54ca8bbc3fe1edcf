package mlxstdio

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
)

// CommandVariable names the environment variable that has the path of the engine's program.
const CommandVariable = "MLX_STDIO"

// ErrNotFound is the error of [Find].
var ErrNotFound = errors.New("there is no mlx-stdio: install it (`uv tool install mlx-stdio`, " +
	"`pipx install mlx-stdio`), put it beside the host's program, or set " + CommandVariable)

// Find looks for the engine, in this order: $MLX_STDIO; beside the host's own program, as `mlx-stdio`
// or as `mlx-stdio/mlx-stdio` (the folder of the standalone build); on the PATH; in ~/.local/bin,
// where uv and pipx put it, which a desktop application's PATH lacks.
func Find() (string, error) {
	if given := os.Getenv(CommandVariable); given != "" {
		return exec.LookPath(given)
	}
	var places []string
	if own, err := os.Executable(); err == nil {
		if real, err := filepath.EvalSymlinks(own); err == nil {
			own = real
		}
		folder := filepath.Dir(own)
		places = append(places, filepath.Join(folder, "mlx-stdio"), filepath.Join(folder, "mlx-stdio", "mlx-stdio"))
	}
	places = append(places, "mlx-stdio")
	if home, err := os.UserHomeDir(); err == nil {
		places = append(places, filepath.Join(home, ".local", "bin", "mlx-stdio"))
	}
	for _, place := range places {
		if found, err := exec.LookPath(place); err == nil {
			return found, nil
		}
	}
	return "", ErrNotFound
}
