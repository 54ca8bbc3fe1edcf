module github.com/mlx-stdio/mlx-stdio/clients/go

go 1.25
