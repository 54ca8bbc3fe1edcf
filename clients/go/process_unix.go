//go:build linux || darwin

package mlxstdio

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
	"time"
	"unsafe"
)

// supported tells whether engines can be spawned here.
func supported() error { return nil }

// waitUntilExited returns when the process has exited, and leaves it unreaped: until it is reaped, its
// number and its group's belong to nobody else. ECHILD is for one that somebody else in the host has
// reaped. Any other error tells nothing of the process: sandboxes are known that refuse this call.
func waitUntilExited(process *os.Process) error {
	const pid = 1             // P_PID
	var information [32]int32 // siginfo_t
	for {
		_, _, number := syscall.Syscall6(syscall.SYS_WAITID, pid, uintptr(process.Pid),
			uintptr(unsafe.Pointer(&information)), syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		switch {
		case number == syscall.EINTR:
		case number != 0:
			return number
		case !stopped(information[2]):
			return nil
		default: // it would return at once again
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// stopped tells by si_code whether a process was only stopped, trapped or continued, of which macOS
// tells, too, without having been asked (go.dev/issue/19314).
func stopped(code int32) bool { return code >= 4 && code <= 6 }

// reap waits for the end with the oldest of the calls that do, as os/exec may not where waitid is refused.
func reap(process *os.Process) (status syscall.WaitStatus, err error) {
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		_, err = syscall.Wait4(process.Pid, &status, 0, nil)
	}
	return status, err
}

func ownGroup(cmd *exec.Cmd) {
	attributes := syscall.SysProcAttr{}
	if cmd.SysProcAttr != nil {
		attributes = *cmd.SysProcAttr
	}
	if !attributes.Setsid { // a session's leader has a group already
		attributes.Setpgid, attributes.Pgid = true, 0
	}
	cmd.SysProcAttr = &attributes
}

func signalGroup(process *os.Process, signal syscall.Signal) error {
	return syscall.Kill(-process.Pid, signal)
}
