package mlxstdio

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shell is a program that is no engine.
func shell(script string) *exec.Cmd { return exec.Command("/bin/sh", "-c", script) }

func TestStart(t *testing.T) {
	noLeaks(t)
	c := startFake(t, "", Options{Name: "test", Version: "1"})
	server := c.Server()
	if server.ProtocolVersion != 1 || server.DefaultModel != "fake" || server.Limits.MaxMessageBytes == 0 {
		t.Errorf("got %+v", server)
	}
	if c.Pid() == 0 {
		t.Error("no process id")
	}
	if c.Err() != nil {
		t.Error(c.Err())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-c.Done()
	if _, err := c.Status(limited(t)); !errors.Is(err, ErrClosed) {
		t.Errorf("got %v", err)
	}
}

func TestStartOfWhatIsNoEngine(t *testing.T) {
	for name, row := range map[string]struct {
		cmd  *exec.Cmd
		want []string
	}{
		"no program":     {exec.Command("/nowhere/mlx-stdio"), []string{"cannot be started", "/nowhere/mlx-stdio"}},
		"wrong options":  {fakeCommand(t, "", "--nosuch"), []string{"exit code 2", "--nosuch"}},
		"a banner":       {shell("echo Welcome; sleep 30"), []string{"no message", `"Welcome"`}},
		"a crash":        {shell("echo no library >&2; kill -SEGV $$"), []string{"signal", "segmentation fault", "no library"}},
		"silence":        {shell("echo starting >&2; exec sleep 30"), []string{"has not answered", "starting"}},
		"its own stderr": {&exec.Cmd{Path: "/bin/true", Stderr: os.Stderr}, []string{"Stderr already"}},
	} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			options := Options{Cmd: row.cmd, HandshakeTimeout: patience, OnNotification: func(string, json.RawMessage) {}}
			if name == "silence" {
				options.HandshakeTimeout = time.Second
			}
			_, err := Start(limited(t), options)
			if err == nil {
				t.Fatal("it started")
			}
			for _, part := range row.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%q is not in: %v", part, err)
				}
			}
		})
	}
}

func TestStartExplainsAnExit(t *testing.T) {
	_, err := Start(limited(t), Options{Cmd: shell("echo why >&2; exit 3")})
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 3 || exit.Signal != 0 || exit.Stderr != "why\n" {
		t.Errorf("got %+v", err)
	}
}

func TestStartRefusesAnotherVersion(t *testing.T) {
	noLeaks(t)
	script := `{"rules": [{"method": "initialize", "steps": [{"result": {"protocolVersion": 2}}]}]}`
	_, err := Start(limited(t), Options{Cmd: fakeCommand(t, script), HandshakeTimeout: patience})
	if !errors.Is(err, ErrProtocolVersion) || !strings.Contains(err.Error(), "engine's is 2") {
		t.Errorf("got %v", err)
	}
	// It is gone when Start returns.
	file := filepath.Join(t.TempDir(), "pid")
	_, err = Start(limited(t), Options{Cmd: shell(fmt.Sprintf(
		`echo $$ >%q; read request; echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":3}}'; exec sleep 1000`, file))})
	text, _ := os.ReadFile(file)
	var pid int
	if _, scan := fmt.Sscan(string(text), &pid); err == nil || scan != nil || alive(pid) {
		t.Errorf("got %v, %v, process %d", err, scan, pid)
	}
}

// A host's command keeps what it has been given, and is as it was.
func TestTheCommandOfTheHost(t *testing.T) {
	noLeaks(t)
	folder := t.TempDir()
	session := "sid"
	if runtime.GOOS == "darwin" { // it cannot tell; but a session's leader leads a group, too
		session = "pgid"
	}
	options := shellEngine(`echo "$GIVEN" >given; ps -o ` + session + `= -p $$ >session; read more`)
	options.Cmd.Env, options.Cmd.Dir = append(os.Environ(), "GIVEN=this"), folder
	options.Cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	for range 2 {
		c := start(t, options)
		pid := c.Pid()
		eventually(t, "it has written", func() bool {
			text, _ := os.ReadFile(filepath.Join(folder, "session"))
			return strings.TrimSpace(string(text)) == fmt.Sprint(pid)
		})
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		if text, err := os.ReadFile(filepath.Join(folder, "given")); string(text) != "this\n" {
			t.Errorf("%q, %v", text, err)
		}
	}
	if cmd := options.Cmd; cmd.Process != nil || cmd.Stdin != nil || cmd.SysProcAttr.Setpgid {
		t.Errorf("got %+v", cmd)
	}
	made := Options{Command: options.Cmd.Path, Args: options.Cmd.Args[1:], Env: options.Cmd.Env, Dir: t.TempDir()}
	start(t, made)
	eventually(t, "it has written", func() bool {
		text, _ := os.ReadFile(filepath.Join(made.Dir, "given"))
		return string(text) == "this\n"
	})
}

func TestTheContextOfStart(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if _, err := Start(ctx, Options{Cmd: shell("exec sleep 30")}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
	other, stop := context.WithCancel(context.Background())
	c, err := Start(other, Options{Cmd: fakeCommand(t, "")})
	if err != nil {
		t.Fatal(err)
	}
	stop() // it was for the start only
	if err := errors.Join(c.Ping(limited(t)), c.Close()); err != nil {
		t.Error(err)
	}
}

// An engine that gives signs of life is waited for, longer than one that is silent.
func TestSignsOfLifeExtendTheHandshake(t *testing.T) {
	noLeaks(t)
	times := "for at in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do sleep 0.1; "
	options := Options{Cmd: shell(`read request; ` + times + `echo at work >&2; done; ` +
		times + `echo '{"jsonrpc":"2.0","method":"new/thing"}'; done; ` +
		`echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":1}}'; read more`)}
	options.HandshakeTimeout = time.Second // of 3 that it takes
	start(t, options)
	_, err := Start(limited(t), Options{Cmd: shell("exec sleep 1000"), HandshakeTimeout: 200 * time.Millisecond})
	if !errors.Is(err, ErrHandshakeTimeout) || strings.Contains(err.Error(), "standard error") { // of which there is nothing
		t.Errorf("got %v", err)
	}
}

// A load may be silent for longer than a handshake; it ends with the context.
func TestTheFirstLoadMayTakeItsTime(t *testing.T) {
	noLeaks(t)
	script := `read load; echo '{"jsonrpc":"2.0","method":"$/progress","params":{"requestId":2,"phase":"loading","completed":7,"total":7,"unit":"bytes"}}'; ` +
		`sleep 4; echo '{"jsonrpc":"2.0","id":2,"result":{}}'; read more`
	var last int64
	options := shellEngine(script)
	options.HandshakeTimeout = 3 * time.Second
	options.Load = &LoadParams{Model: "fake"}
	options.OnProgress = func(p Progress) { last = p.Completed }
	start(t, options)
	if last != 7 {
		t.Errorf("progress: %d", last)
	}
	options.Cmd = shellEngine(script + "; exec sleep 1000").Cmd
	ctx, cancel := context.WithCancel(context.Background())
	options.OnProgress = func(Progress) { cancel() } // it is loading
	if _, err := Start(ctx, options); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestTheFirstLoad(t *testing.T) {
	noLeaks(t)
	told := 0
	options := Options{
		Cmd:              fakeCommand(t, ""),
		HandshakeTimeout: patience,
		Load:             &LoadParams{Model: "fake", Pin: Ptr(true)},
		OnProgress:       func(Progress) { told++ },
	}
	c := start(t, options)
	models, err := c.Models(limited(t))
	if err != nil || models[0].State != StateReady || !*models[0].Pinned || told == 0 {
		t.Errorf("got %+v, %v, %d times progress", models, err, told)
	}
	options.Cmd, options.Load = fakeCommand(t, ""), &LoadParams{Model: "nosuch"}
	if _, err := Start(limited(t), options); !errors.Is(err, KindModelNotFound) {
		t.Errorf("got %v", err)
	}
}

// Nothing is left open by engines that have come and gone.
func TestNoDescriptorIsLeftOpen(t *testing.T) {
	count := func() int {
		entries, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skip(err)
		}
		return len(entries)
	}
	before, warm := 0, false
	life := func() {
		before := count()
		c, err := Start(limited(t), Options{Cmd: fakeCommand(t, ""), HandshakeTimeout: patience})
		if err == nil {
			if during := count(); during > before+4 && warm { // three pipes, and a handle
				t.Errorf("%d descriptors before, %d while it runs", before, during)
			}
			err = c.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Start(limited(t), Options{Cmd: shell("exit 1")}); err == nil {
			t.Fatal("it started")
		}
		for range 5 {
			if _, err := Start(limited(t), Options{Command: "/nowhere/mlx-stdio"}); err == nil {
				t.Fatal("it started")
			}
		}
	}
	life() // what the runtime opens once
	before, warm = count(), true
	for range 3 {
		life()
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}
