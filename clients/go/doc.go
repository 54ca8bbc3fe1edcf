// Package mlxstdio will be the Go client of mlx-stdio: it spawns the engine, speaks
// JSON-RPC 2.0 with it over its standard input and output, and streams what it generates.
//
// It is not built yet. Until it is, protocol.md at the root of the repository tells a host
// everything it needs to talk to the engine with encoding/json and os/exec.
package mlxstdio
