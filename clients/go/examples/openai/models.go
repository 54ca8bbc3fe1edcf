package main

import (
	"context"
	"net/http"
	"slices"
	"sync"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// catalogue knows which models an HTTP client may name: those that the engine lists. Anything else
// could be a path, and the engine would read every folder that this process can read.
type catalogue struct {
	client *mlxstdio.Client

	mu    sync.Mutex
	known []string
}

// list asks the engine. Its default model is there too where it is a folder without a name.
func (c *catalogue) list(ctx context.Context) ([]string, error) {
	states, err := c.client.Models(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, state := range states {
		names = append(names, state.ID)
	}
	if standard := c.client.Server().DefaultModel; !slices.Contains(names, standard) {
		names = append(names, standard)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = names
	return names, nil
}

// check refuses a name that is not listed. It asks the engine only for names that are new to it.
func (c *catalogue) check(ctx context.Context, name string) error {
	if name == "" {
		return nil // the default
	}
	c.mu.Lock()
	known := slices.Contains(c.known, name)
	c.mu.Unlock()
	if known {
		return nil
	}
	names, err := c.list(ctx)
	if err == nil && !slices.Contains(names, name) {
		err = noModel(name)
	}
	return err
}

func noModel(name string) error {
	return &apiError{status: http.StatusNotFound, Type: typeInvalid, Param: ptr("model"),
		Code: ptr("model_not_found"), Message: "there is no model " + name}
}

// model is a row of /v1/models.
type model struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
}

func (f *front) row(name string) model {
	// The engine keeps no dates; the start is at least the same from call to call.
	return model{ID: name, Object: "model", Created: f.started.Unix(), OwnedBy: "mlx-stdio"}
}

func (f *front) listModels(w http.ResponseWriter, r *http.Request) {
	names, err := f.models.list(r.Context())
	if err != nil {
		f.fail(w, r, nil, err)
		return
	}
	rows := make([]model, len(names))
	for at, name := range names {
		rows[at] = f.row(name)
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": rows})
}

func (f *front) oneModel(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("name") // with slashes: org/model
	if name == "" {
		f.fail(w, r, nil, noModel(name))
		return
	}
	if err := f.models.check(r.Context(), name); err != nil {
		f.fail(w, r, nil, err)
		return
	}
	writeJSON(w, http.StatusOK, f.row(name))
}
