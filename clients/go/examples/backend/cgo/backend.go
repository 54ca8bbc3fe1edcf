// Package cgo is the other way to build a backend: Python and mlx_lm in the host's own process. It is
// here to be measured against package backend; see its README. It is a module of its own, so that
// nobody else needs a C compiler.
//
// MLX binds its streams to a thread, so one thread owns Python and does everything, one call after
// the other. The interpreter cannot be taken down again in good order, with the libraries that it
// has loaded: Free gives the weights back, and the rest stays as long as the host.
package cgo

/*
#include <stdlib.h>
#include "python.h"
*/
import "C"

import (
	_ "embed"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync"
	"unsafe"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend"
)

// Python is the interpreter whose packages are used, that of a virtual environment for instance. It
// has to be of the version that this package was built with. To be set before the first Load.
var Python = os.Getenv("MLX_PYTHON")

// TrustRemoteCode lets a model's folder bring code of its own.
var TrustRemoteCode = false

// ErrFreed is the error of a model that is used, or freed, after its Free.
var ErrFreed = errors.New("cgo: the model was freed")

//go:embed glue.py
var glue string

var (
	work  = make(chan func())
	start = sync.OnceValue(func() error {
		started := make(chan error)
		go own(started)
		return <-started
	})
)

// own is the thread's life: an operating system's thread that no other goroutine gets.
func own(started chan<- error) {
	runtime.LockOSThread()
	program, source := C.CString(Python), C.CString(glue)
	message := C.python_start(program, source)
	C.free(unsafe.Pointer(program))
	C.free(unsafe.Pointer(source))
	if message != nil {
		started <- errors.New("cgo: " + C.GoString(message))
		C.free(unsafe.Pointer(message))
		return
	}
	started <- nil
	for do := range work {
		do()
	}
}

// call calls a function of the glue on Python's thread, and waits for it: there is no way to cancel.
func call(function, text string, handle, number int64) (answer string, err error) {
	if err := start(); err != nil {
		return "", err
	}
	done := make(chan struct{})
	work <- func() {
		defer close(done)
		name, bytes := C.CString(function), C.CString(text)
		defer C.free(unsafe.Pointer(name))
		defer C.free(unsafe.Pointer(bytes))
		var got *C.char
		var length C.size_t
		good := C.python_call(name, bytes, C.size_t(len(text)), C.longlong(handle),
			C.longlong(number), &got, &length)
		if good == 0 {
			err = errors.New("cgo: " + C.GoString(got))
		} else {
			answer = C.GoStringN(got, C.int(length))
		}
		C.free(unsafe.Pointer(got))
	}
	<-done
	return answer, err
}

// Model is a loaded model.
type Model struct {
	handle int64

	mu    sync.RWMutex
	freed bool
}

var _ backend.Backend = (*Model)(nil)

// Load loads a model's folder. The first one starts Python, and imports mlx_lm.
func Load(path string) (*Model, error) {
	trust := int64(0)
	if TrustRemoteCode {
		trust = 1
	}
	text, err := call("load", path, 0, trust)
	if err != nil {
		return nil, err
	}
	handle, err := strconv.ParseInt(text, 10, 64)
	return &Model{handle: handle}, err
}

// Generate continues the prompt by at most so many tokens. A crash in it is the end of the host.
func (m *Model) Generate(prompt string, maxTokens int) (string, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if m.freed {
		return "", ErrFreed
	}
	if maxTokens < 1 { // to mlx_lm, -1 is without end
		return "", fmt.Errorf("cgo: maxTokens is %d", maxTokens)
	}
	return call("generate", prompt, m.handle, int64(maxTokens))
}

// Free gives the weights back, once the calls in flight have ended.
func (m *Model) Free() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.freed {
		return ErrFreed
	}
	m.freed = true
	_, err := call("free", "", m.handle, 0)
	return err
}

// Wire makes a call that does nothing in Python: what the way there and back costs.
func Wire() error {
	_, err := call("nothing", "", 0, 0)
	return err
}
