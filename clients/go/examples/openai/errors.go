package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

const (
	typeInvalid = "invalid_request_error"
	typeServer  = "server_error"
)

// apiError is OpenAI's error object, and the status that goes with it.
type apiError struct {
	Message string  `json:"message"`
	Type    string  `json:"type"`
	Param   *string `json:"param"`
	Code    *string `json:"code"`

	status     int
	retryAfter time.Duration
	final      bool // asking again is of no use, though the status looks like it
}

type errorBody struct {
	Error *apiError `json:"error"`
}

func (e *apiError) Error() string { return e.Message }

// kinds has the status of each of the engine's errors, and OpenAI's code or one like it.
var kinds = map[mlxstdio.ErrorKind]struct {
	status int
	code   string
	final  bool
}{
	mlxstdio.KindInvalidParams:         {http.StatusBadRequest, "invalid_value", false},
	mlxstdio.KindInvalidRequest:        {http.StatusBadRequest, "invalid_request", false}, // too long
	mlxstdio.KindUnsupported:           {http.StatusBadRequest, "unsupported_parameter", false},
	mlxstdio.KindContextLengthExceeded: {http.StatusBadRequest, "context_length_exceeded", false},
	mlxstdio.KindModelNotFound:         {http.StatusNotFound, "model_not_found", false},
	mlxstdio.KindModelLoadFailed:       {http.StatusInternalServerError, "model_load_failed", true},
	mlxstdio.KindOverloaded:            {http.StatusServiceUnavailable, "overloaded", false},
	mlxstdio.KindShuttingDown:          {http.StatusServiceUnavailable, "shutting_down", false},
	mlxstdio.KindOutOfMemory:           {http.StatusInsufficientStorage, "out_of_memory", true},
	mlxstdio.KindDeadlineExceeded:      {http.StatusGatewayTimeout, "deadline_exceeded", true},
	mlxstdio.KindEngineFault:           {http.StatusBadGateway, "engine_fault", false},
}

// errorOf is what the HTTP client gets to know. What an engine wrote as it left is for the log only.
func errorOf(todo *job, err error) *apiError {
	var ready *apiError
	var tooLong *http.MaxBytesError
	var told *mlxstdio.Error
	var exit *mlxstdio.ExitError
	switch {
	case errors.As(err, &ready):
		return ready
	case errors.As(err, &tooLong):
		return &apiError{status: http.StatusRequestEntityTooLarge, Type: typeInvalid,
			Message: fmt.Sprintf("the body is longer than %d bytes", tooLong.Limit)}
	case errors.As(err, &told) && told.Data.Kind != mlxstdio.KindCancelled:
		return engineError(todo, told)
	case errors.Is(err, context.DeadlineExceeded):
		return serverError(http.StatusGatewayTimeout, "deadline_exceeded", "the request took too long", true)
	case errors.Is(err, mlxstdio.ErrClosed):
		return serverError(http.StatusServiceUnavailable, "shutting_down", "the server is shutting down", false)
	case errors.As(err, &exit):
		return serverError(http.StatusBadGateway, "engine_exit", "the engine has left unexpectedly", false)
	}
	return serverError(http.StatusBadGateway, "engine_error", "the engine cannot be reached", false)
}

func serverError(status int, code, text string, final bool) *apiError {
	return &apiError{status: status, Type: typeServer, Code: &code, Message: text, final: final}
}

func engineError(todo *job, told *mlxstdio.Error) *apiError {
	row, ok := kinds[told.Data.Kind]
	if !ok { // internalError, and what later engines may add
		return serverError(http.StatusInternalServerError, string(told.Data.Kind), told.Message, false)
	}
	made := &apiError{status: row.status, Type: typeServer, Message: told.Message, Code: &row.code,
		final: row.final, retryAfter: told.RetryAfter()}
	if row.status < http.StatusInternalServerError {
		made.Type = typeInvalid
	}
	param := ""
	switch told.Data.Kind {
	case mlxstdio.KindModelNotFound:
		param = "model"
	case mlxstdio.KindContextLengthExceeded:
		param = "prompt"
		if todo != nil && todo.chat {
			param = "messages"
		}
	default:
		param = paramOf(todo, told.Data.Path)
	}
	if param != "" {
		made.Param = &param
	}
	return made
}

// paramOf is OpenAI's name of what a JSONPath of the engine's params points to: $.topP is top_p.
func paramOf(todo *job, path string) string {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "$"), ".")
	end := strings.IndexAny(path, ".[")
	if end < 0 {
		end = len(path)
	}
	name, rest := path[:end], path[end:]
	if todo != nil && todo.params[name] != "" {
		return todo.params[name] + rest
	}
	var snake strings.Builder
	for _, char := range name {
		if unicode.IsUpper(char) {
			snake.WriteByte('_')
		}
		snake.WriteRune(unicode.ToLower(char))
	}
	return snake.String() + rest
}

// fail answers with an error, unless the client is not there any more.
func (f *front) fail(w http.ResponseWriter, r *http.Request, todo *job, err error) {
	if r.Context().Err() != nil {
		return
	}
	f.note(r, err)
	writeError(w, errorOf(todo, err))
}

// note logs what is not the HTTP client's own mistake.
func (f *front) note(r *http.Request, err error) {
	if status := errorOf(nil, err).status; status >= http.StatusInternalServerError {
		f.log.Warn("a request failed", "path", r.URL.Path, "status", status, "error", err)
	}
}

// writeError tells OpenAI's clients by headers when to ask again, or not to: they would else ask
// again after any status from 500 on.
func writeError(w http.ResponseWriter, told *apiError) {
	header := w.Header()
	if told.retryAfter > 0 {
		seconds := (told.retryAfter + time.Second - 1) / time.Second
		header.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
		header.Set("Retry-After-Ms", strconv.FormatInt(told.retryAfter.Milliseconds(), 10))
	}
	if told.final {
		header.Set("X-Should-Retry", "false")
	}
	writeJSON(w, told.status, errorBody{told})
}
