package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"time"
)

// ErrClosed is the error of requests after [Client.Close], and of those that it cut short.
var ErrClosed = errors.New("the client is closed")

// ErrGivenUp is that of a client whose engine does not start again, see [Restart].
var ErrGivenUp = errors.New("given up")

// ErrProtocolVersion is for an engine that speaks another version than [ProtocolVersion].
var ErrProtocolVersion = errors.New("another version of the protocol")

// endedError is of a client that will not have an engine any more.
type endedError struct{ reason error }

func (e *endedError) Error() string { return e.reason.Error() }

// Error is the engine's answer to a request that failed.
//
// A kind or a code is enough to recognise one:
//
//	errors.Is(err, mlxstdio.KindOverloaded)
//	errors.Is(err, mlxstdio.CodeOverloaded)
//
// An engine's `cancelled` is also [context.Canceled], its `deadlineExceeded` also
// [context.DeadlineExceeded].
type Error struct {
	Code    Code
	Message string
	Data    ErrorData

	// Method of the request.
	Method string
}

// ErrorData is what the engine tells beside an error's code. Which members are there depends on the
// kind; protocol.md, section 11, has the list.
type ErrorData struct {
	Kind ErrorKind `json:"kind"`

	// Where the offence is in the params, as a JSONPath. With invalidParams.
	Path string `json:"path,omitzero"`

	// With modelNotFound.
	Model string `json:"model,omitzero"`

	// With contextLengthExceeded.
	PromptTokens  int64 `json:"promptTokens,omitzero"`
	ContextLength int64 `json:"contextLength,omitzero"`

	// When to ask again. With overloaded.
	RetryAfterMs int64 `json:"retryAfterMs,omitzero"`

	// With outOfMemory.
	NeededBytes int64 `json:"neededBytes,omitzero"`
	LimitBytes  int64 `json:"limitBytes,omitzero"`

	// What a generation had said when it was cut short.
	Partial *Partial `json:"partial,omitzero"`

	// The whole object, for members that this version does not know.
	Raw json.RawMessage `json:"-"`
}

// Partial is what there was of a generation.
type Partial struct {
	Text             string `json:"text"`
	CompletionTokens int64  `json:"completionTokens"`
}

// UnmarshalJSON reads what it knows, and never fails: an error must not hide behind another one, nor
// a member behind one that is of a form it does not know.
func (d *ErrorData) UnmarshalJSON(data []byte) error {
	type plain ErrorData
	if json.Unmarshal(data, (*plain)(d)) != nil {
		*d = ErrorData{}
		var members map[string]json.RawMessage
		_ = json.Unmarshal(data, &members)
		for name, value := range members {
			member, _ := json.Marshal(map[string]json.RawMessage{name: value})
			if one := *d; json.Unmarshal(member, (*plain)(&one)) == nil {
				*d = one
			}
		}
	}
	d.Raw = append(json.RawMessage(nil), data...)
	return nil
}

func (e *Error) Error() string {
	text := fmt.Sprintf("mlxstdio: %s: %s (%s, %d)", e.Method, e.Message, string(e.Data.Kind), int(e.Code))
	if e.Data.Path != "" {
		text += " at " + e.Data.Path
	}
	return text
}

// RetryAfter is the time after which to ask again, where the engine told one.
func (e *Error) RetryAfter() time.Duration {
	return time.Duration(e.Data.RetryAfterMs) * time.Millisecond
}

// Is compares with a [Code], an [ErrorKind], or what Go itself calls such an end.
func (e *Error) Is(target error) bool {
	switch target := target.(type) {
	case Code:
		return e.Code == target
	case ErrorKind:
		code, known := Codes[target]
		return e.Data.Kind == target || e.Data.Kind == "" && known && code == e.Code
	}
	return target == context.Canceled && e.Code == CodeCancelled ||
		target == context.DeadlineExceeded && e.Code == CodeDeadlineExceeded
}

// Error makes a code something that [errors.Is] can look for.
func (c Code) Error() string { return fmt.Sprintf("code %d", int(c)) }

// Error makes a kind something that [errors.Is] can look for.
func (k ErrorKind) Error() string { return string(k) }

// ExitError tells that the engine has left without being asked to. Requests that were in flight
// get it, wrapped; [errors.As] finds it.
type ExitError struct {
	// Exit code as in protocol.md, section 12; -1 after a signal.
	Code int

	// The signal that ended it; 0 without one.
	Signal syscall.Signal

	// What it announced before, if it did.
	Fatal *Fatal

	// The end of its standard error: a traceback, or why the command line is wrong. The error's own
	// text has the last line.
	Stderr string

	// Why its stream could not be read any more, if that is why it was ended.
	Cause error
}

func (e *ExitError) Error() string {
	var text strings.Builder
	fmt.Fprintf(&text, "the engine has left with exit code %d", e.Code)
	if e.Signal != 0 {
		text.Reset()
		fmt.Fprintf(&text, "the engine was ended by a signal (%v)", e.Signal)
	}
	if e.Fatal != nil {
		fmt.Fprintf(&text, ": %s", e.Fatal.Message)
	}
	if e.Cause != nil {
		fmt.Fprintf(&text, ": %v", e.Cause)
	}
	if last := lastLine(e.Stderr); last != "" && e.Fatal == nil && e.Cause == nil {
		fmt.Fprintf(&text, ": %s", last)
	}
	return text.String()
}

// lastLine is what a traceback, or a program that explains its command line, says in the end; the
// engine's own log is passed over, unless it tells of an error.
func lastLine(text string) string {
	const shown = 300
	lines := strings.Split(text, "\n")
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(line)
		var record struct{ Level string }
		logged := json.Unmarshal([]byte(line), &record) == nil && record.Level != "error"
		if line != "" && !logged {
			return line[max(0, len(line)-shown):]
		}
	}
	return ""
}

// inGoodOrder is the end of an engine that was told to leave.
func (e *ExitError) inGoodOrder() bool {
	return e.Signal == 0 && (e.Code == 0 || e.Code == 1) && e.Fatal == nil
}

// Unwrap gives the cause.
func (e *ExitError) Unwrap() error { return e.Cause }

// LostError is for a request whose engine went away before its reply: [Error] is what an engine
// answers, this is that none will.
type LostError struct {
	Method string

	// Text of it has come; without any, it may be sent again.
	Streamed bool

	// An [ExitError], or what became of the transport.
	Cause error
}

func (e *LostError) Error() string {
	what := "before any text"
	switch {
	case e.Streamed && errors.Is(e.Cause, ErrClosed):
		what = "after some of its text"
	case e.Streamed:
		what = "after some of its text, so it is not sent again"
	}
	return fmt.Sprintf("mlxstdio: %s: lost %s: %v", e.Method, what, e.Cause)
}

// Is finds [ErrGivenUp] also where Unwrap hides the reason.
func (e *LostError) Is(target error) bool {
	return target == ErrGivenUp && errors.Is(e.Cause, ErrGivenUp)
}

// Unwrap gives the cause, unless that is the engine's answer to another request: that of Options.Load
// after a restart.
func (e *LostError) Unwrap() error {
	if told := (*Error)(nil); errors.As(e.Cause, &told) {
		return nil
	}
	return e.Cause
}
