// Package backend is a drop-in for a backend that binds the model's library through cgo: the same
// few functions (load a model, generate, free it), with the engine in a process of its own.
//
// The engine is spawned by the first Load, shared by all models that are loaded, started again when
// it has crashed, and closed by the Free of the last model. README.md sets it beside a backend that
// has Python in the host's own process, point by point, with measured figures.
//
// The interface has no context, no stream and no chat. A host that wants them uses the client
// itself, package mlxstdio, which is hardly longer.
package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// Backend is a model that is loaded, as the proposal has it.
type Backend interface {
	// Generate continues the prompt by at most so many tokens.
	Generate(prompt string, maxTokens int) (string, error)

	// Free gives the model's memory back. The backend must not be used afterwards.
	Free() error
}

// Engine is what models are loaded into: one process, as long as there is a model.
type Engine struct {
	options mlxstdio.Options

	// Load and Free take turns. The engine loads one model at a time anyway, and a model must not
	// be unloaded for one host goroutine just after it was loaded for another one.
	turn  sync.Mutex
	users map[string]int // how many a model's id has

	mu     sync.Mutex
	client *mlxstdio.Client // nil while there is no model
}

// New makes an engine, which is not started yet. It is started again after a crash, by
// options.Restart if that is there.
//
// Models are pinned, since a model that is loaded is expected to stay so. The engine has place for
// three unless options.Args say otherwise: --max-models 10.
func New(options mlxstdio.Options) *Engine {
	if options.Restart == nil {
		options.Restart = &mlxstdio.Restart{}
	}
	return &Engine{options: options, users: map[string]int{}}
}

// shared is the engine of the package's own Load: a cgo binding has no options, and no limit but
// the memory.
var shared = New(mlxstdio.Options{Args: []string{"--max-models", "1000"}})

// Load loads a model into the engine that mlxstdio.Find finds: a folder, the id of a model in the
// local Hugging Face cache, or "pico".
func Load(model string) (*Model, error) { return shared.Load(model) }

// Load loads a model. The same model may be loaded more than once; it is in memory once.
func (e *Engine) Load(model string) (*Model, error) {
	e.turn.Lock()
	defer e.turn.Unlock()
	client, err := e.running()
	if err != nil {
		return nil, err
	}
	params := &mlxstdio.LoadParams{Model: model, Pin: mlxstdio.Ptr(true)}
	loaded, err := client.Load(context.Background(), params)
	if err != nil {
		return nil, errors.Join(err, e.closeUnused())
	}
	id := loaded.Model.ID // one id, whatever name or path it was loaded by
	e.users[id]++
	return &Model{engine: e, id: id}, nil
}

// Client is the way out, to what the interface lacks: chat, streams, cancels. It is nil while there
// is no model.
func (e *Engine) Client() *mlxstdio.Client {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.client
}

// running is the client of an engine that runs, or is on its way back: the client waits then. One
// that was given up after many crashes is replaced, so that a host that asks again has a chance.
func (e *Engine) running() (*mlxstdio.Client, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.client != nil && !isDone(e.client) {
		return e.client, nil
	}
	client, err := mlxstdio.Start(context.Background(), e.options)
	if err != nil {
		return nil, fmt.Errorf("backend: %w", err)
	}
	e.client = client
	return client, nil
}

// free is a model's end. What a crash has taken needs no unloading, and no new engine for it.
func (e *Engine) free(id string) error {
	e.turn.Lock()
	defer e.turn.Unlock()
	e.users[id]--
	if e.users[id] > 0 {
		return nil
	}
	delete(e.users, id)
	client := e.Client()
	if len(e.users) == 0 || client == nil || isDone(client) {
		return e.closeUnused()
	}
	_, err := client.Unload(context.Background(), &mlxstdio.UnloadParams{Model: id})
	return err
}

// closeUnused ends an engine that has no model; all its memory comes back.
func (e *Engine) closeUnused() error {
	if len(e.users) > 0 {
		return nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	client := e.client
	e.client = nil
	if client == nil {
		return nil
	}
	if isDone(client) {
		return nil // it is gone already; whoever was waiting for it was told why
	}
	return client.Close()
}

func isDone(client *mlxstdio.Client) bool {
	select {
	case <-client.Done():
		return true
	default:
		return false
	}
}
