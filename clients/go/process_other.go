//go:build !linux && !darwin

package mlxstdio

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
)

// The engine itself runs on Linux and macOS only. What is here lets a host that runs elsewhere, too, be
// compiled there: NewClient works, Start tells that it does not.

func supported() error {
	return fmt.Errorf("engines are not spawned on %s: %w", runtime.GOOS, errors.ErrUnsupported)
}

func waitUntilExited(*os.Process) error { return errors.ErrUnsupported }

func reap(*os.Process) (status syscall.WaitStatus, err error) { return status, errors.ErrUnsupported }

func ownGroup(*exec.Cmd) {}

func signalGroup(*os.Process, syscall.Signal) error { return errors.ErrUnsupported }
