// Command host is the measured host with Python in its own process. $MLX_PYTHON says which one; with
// the argument "trust" it runs code of models.
package main

import (
	"os"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend/cgo"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend/internal/host"
)

func main() {
	cgo.TrustRemoteCode = len(os.Args) > 1 && os.Args[1] == "trust"
	host.Main(host.Contender{
		Load: func(model string) (backend.Backend, error) { return cgo.Load(model) },
		Wire: cgo.Wire,
	})
}
