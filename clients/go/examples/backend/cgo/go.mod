module github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend/cgo

go 1.25

require github.com/mlx-stdio/mlx-stdio/clients/go v0.0.0

replace github.com/mlx-stdio/mlx-stdio/clients/go => ../../..
