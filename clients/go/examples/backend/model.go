package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// ErrFreed is the error of a model that is used, or freed, after its Free.
var ErrFreed = errors.New("backend: the model was freed")

// Model is a loaded model. It may be used from any goroutine; what several ask at once, the engine
// computes at once.
type Model struct {
	engine *Engine
	id     string

	// Held for reading by each Generate, so that Free waits for them and later ones wait for it.
	mu    sync.RWMutex
	freed bool
}

var _ Backend = (*Model)(nil)

// Generate continues the prompt by at most so many tokens. If the engine crashes meanwhile, it is
// asked once more after its restart; a prompt that ends it again is an error, which errors.As finds
// to be an *mlxstdio.ExitError. The host, and the calls that come later, go on in any case.
func (m *Model) Generate(prompt string, maxTokens int) (string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.freed {
		return "", ErrFreed
	}
	if maxTokens < 1 { // 0 is absent in the client, and then the engine's default
		return "", fmt.Errorf("backend: maxTokens is %d", maxTokens)
	}
	client, err := m.engine.running()
	if err != nil {
		return "", err
	}
	params := &mlxstdio.GenerateParams{Prompt: mlxstdio.Prompt(prompt)}
	params.Model = m.id
	params.MaxTokens = int64(maxTokens)
	result, err := client.Generate(context.Background(), params)
	if err != nil {
		return "", err
	}
	return result.Text, nil
}

// Free gives the model back, once the calls in flight have ended. The last model's Free also ends
// the engine, and returns when it is gone.
func (m *Model) Free() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.freed {
		return ErrFreed
	}
	m.freed = true
	return m.engine.free(m.id)
}
