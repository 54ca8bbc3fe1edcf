//go:build linux || darwin

package mlxstdio

import (
	"os"
	"os/exec"
	"syscall"
	"time"
	"unsafe"
)

// waitUntilExited returns when the process has exited, and leaves it unreaped: until it is reaped, its
// number and its group's belong to nobody else. It is false where somebody else in the host has
// reaped it.
func waitUntilExited(process *os.Process) bool {
	const pid = 1             // P_PID
	var information [32]int32 // siginfo_t
	for {
		_, _, number := syscall.Syscall6(syscall.SYS_WAITID, pid, uintptr(process.Pid),
			uintptr(unsafe.Pointer(&information)), syscall.WEXITED|syscall.WNOWAIT, 0, 0)
		switch {
		case number == syscall.EINTR:
		case number != 0:
			return false
		case !stopped(information[2]):
			return true
		default: // it would return at once again
			time.Sleep(50 * time.Millisecond)
		}
	}
}

// stopped tells by si_code whether a process was only stopped, trapped or continued, of which macOS
// tells, too, without having been asked (go.dev/issue/19314).
func stopped(code int32) bool { return code >= 4 && code <= 6 }

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
