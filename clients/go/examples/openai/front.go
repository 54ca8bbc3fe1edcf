package main

import (
	"context"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"strings"
	"time"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// limits bound what one HTTP client can take.
type limits struct {
	body    int64         // bytes of a request
	timeout time.Duration // of a request; 0 for none
	stall   time.Duration // how long a client may read nothing, or take to send its request
}

var defaultLimits = limits{body: 4 << 20, stall: 30 * time.Second}

// front has what the handlers share.
type front struct {
	client  *mlxstdio.Client
	log     *slog.Logger
	limits  limits
	models  *catalogue
	names   *tokenNames
	started time.Time
}

func newFront(client *mlxstdio.Client, log *slog.Logger, bounds limits) *front {
	return &front{client: client, log: log, limits: bounds, models: &catalogue{client: client},
		names: newTokenNames(client), started: time.Now()}
}

func (f *front) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/chat/completions", f.generate(readChat))
	mux.HandleFunc("POST /v1/completions", f.generate(readCompletion))
	mux.HandleFunc("GET /v1/models", f.listModels)
	mux.HandleFunc("GET /v1/models/{name...}", f.oneModel)
	mux.HandleFunc("GET /healthz", f.health)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		f.fail(w, r, nil, &apiError{status: http.StatusNotFound, Type: typeInvalid, Code: ptr("unknown_url"),
			Message: "unknown request: " + r.Method + " " + r.URL.Path})
	})
	return local(mux)
}

// local refuses what a web page can make a browser send to this machine: a name that points here
// (DNS rebinding) in place of an address. A form, which needs no preflight, fails for its type in
// read.
func local(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		address, _ := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
		if address != nil && address.IP.IsLoopback() && !isLocalName(r.Host) {
			writeError(w, &apiError{status: http.StatusForbidden, Type: typeInvalid,
				Message: "this server answers to localhost only, not to " + r.Host})
			return
		}
		next.ServeHTTP(w, r)
	})
}

func isLocalName(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return host == "localhost" || net.ParseIP(strings.Trim(host, "[]")) != nil
}

// health is for whoever watches this process: it asks the engine too.
func (f *front) health(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	if err := f.client.Ping(ctx); err != nil {
		f.log.Warn("the engine is not well", "error", err)
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "unavailable"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

// read takes a bounded body to its end: only then does net/http look whether the client is still
// there, and ends the request's context when it is not.
func (f *front) read(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	if kind, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); kind != "application/json" {
		return nil, &apiError{status: http.StatusUnsupportedMediaType, Type: typeInvalid,
			Message: "the Content-Type has to be application/json"}
	}
	control := http.NewResponseController(w)
	_ = control.SetReadDeadline(time.Now().Add(f.limits.stall))
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, f.limits.body))
	_ = control.SetReadDeadline(time.Time{})
	return body, err
}
