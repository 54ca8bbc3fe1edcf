// Command stdio is the measured host with the engine in a process of its own. Its arguments are the
// engine's command; without any it is the one that is found.
package main

import (
	"context"
	"os"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend"
	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend/internal/host"
)

func main() {
	options := mlxstdio.Options{}
	if len(os.Args) > 1 {
		options.Command, options.Args = os.Args[1], os.Args[2:]
	}
	engine := backend.New(options)
	host.Main(host.Contender{
		Load:   func(model string) (backend.Backend, error) { return engine.Load(model) },
		Wire:   func() error { return engine.Client().Ping(context.Background()) },
		Engine: func() int { return engine.Client().Pid() },
	})
}
