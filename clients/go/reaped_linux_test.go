package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"
)

// Sandboxes are known that refuse waitid, some as if the kernel did not have it. The host is this test's
// program, run again, with a filter of its own.
func TestASandboxThatRefusesToWait(t *testing.T) {
	if seccompCall == 0 {
		t.Skip("the number of the call is not known here")
	}
	for _, number := range []syscall.Errno{syscall.ENOSYS, syscall.EPERM} {
		t.Run(number.Error(), func(t *testing.T) {
			fake := fakeCommand(t, "")
			data, err := json.Marshal(hostPlan{Phase: sandboxed, Command: fake.Args, Folder: fake.Dir, Refusal: number})
			if err != nil {
				t.Fatal(err)
			}
			host := exec.CommandContext(limited(t), os.Args[0])
			host.Env = append(os.Environ(), hostVariable+"="+string(data))
			output, err := host.CombinedOutput()
			if strings.Contains(string(output), "no filter") {
				t.Skip(string(output))
			}
			if err != nil {
				t.Errorf("%v: %s", err, output)
			}
		})
	}
}

const sandboxed = "sandboxed"

func init() { otherHosts[sandboxed] = beSandboxed }

var seccompCall = map[string]uintptr{"amd64": 317, "arm64": 277}[runtime.GOARCH]

// refuse has waitid fail from here on, in all threads.
func refuse(number syscall.Errno) error {
	type instruction struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}
	filter := []instruction{
		{0x20, 0, 0, 0},                           // load the number of the call
		{0x15, 0, 1, syscall.SYS_WAITID},          // if it is this one
		{0x06, 0, 0, 0x00050000 | uint32(number)}, // it fails
		{0x06, 0, 0, 0x7fff0000},                  // any other is made
	}
	program := struct {
		length uint16
		filter *instruction
	}{uint16(len(filter)), &filter[0]}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	const noNewPrivileges, filterMode, allThreads = 38, 1, 1
	if _, _, err := syscall.Syscall6(syscall.SYS_PRCTL, noNewPrivileges, 1, 0, 0, 0, 0); err != 0 {
		return err
	}
	if _, _, err := syscall.Syscall(seccompCall, filterMode, allThreads, uintptr(unsafe.Pointer(&program))); err != 0 {
		return err
	}
	return nil
}

// beSandboxed is that host: its engine lives as long as it should, and is told apart from one that dies.
func beSandboxed(plan hostPlan) error {
	if err := refuse(plan.Refusal); err != nil {
		return fmt.Errorf("no filter: %w", err)
	}
	cmd := exec.Command(plan.Command[0], plan.Command[1:]...)
	cmd.Dir = plan.Folder
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	c, err := Start(ctx, Options{Cmd: cmd, HandshakeTimeout: patience})
	if err != nil {
		return err
	}
	time.Sleep(readGrace + 200*time.Millisecond) // after which one that has left is given up
	if err := errors.Join(c.Ping(ctx), c.Close()); err != nil {
		return fmt.Errorf("it does not live: %w", err)
	}
	for script, code := range map[string]int{"exit 7": 7, "kill -9 $$": -1} {
		options := shellEngine(script)
		if c, err = Start(ctx, options); err != nil {
			return err
		}
		<-c.Done()
		var exit *ExitError
		if !errors.As(c.Err(), &exit) || exit.Code != code || (exit.Signal == syscall.SIGKILL) != (code < 0) || c.Pid() != 0 {
			return fmt.Errorf("%s: %w", script, c.Err())
		}
	}
	if c, err = Start(ctx, shellEngine("exec sleep 1000")); err != nil {
		return err
	}
	return c.Close() // which has to tell it by a signal
}
