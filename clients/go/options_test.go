package mlxstdio

import (
	"math"
	"os/exec"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A host may use its options for something else after Start; a restart does not see it.
func TestOptionsAreCopied(t *testing.T) {
	noLeaks(t)
	cmd := fakeCommand(t, "")
	back := make(chan error, 1)
	options := Options{
		Cmd:       &exec.Cmd{Path: cmd.Path, Args: cmd.Args, Dir: cmd.Dir},
		Load:      &LoadParams{Model: "fake", Pin: Ptr(true)},
		Restart:   &Restart{Wait: time.Millisecond},
		OnRestart: func(_ int, err error) { back <- err },
	}
	c := start(t, options)
	if err := syscall.Kill(c.Pid(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	clear(options.Cmd.Args)
	options.Cmd.Path, options.Load.Model, *options.Load.Pin = "/nowhere", "nosuch", false
	options.Restart.Attempts, options.Restart.Wait = 1, time.Hour
	if err := <-back; err != nil {
		t.Fatal(err)
	}
	models, err := c.Models(limited(t))
	if err != nil || models[0].ID != "fake" || !*models[0].Pinned {
		t.Errorf("got %+v, %v", models, err)
	}
}

// No slice, map or pointer of the host's is kept; its functions are, and what the logger is.
func TestNothingOfTheOptionsIsShared(t *testing.T) {
	given := Options{Args: []string{"a"}, Env: []string{"b=c"}, Restart: &Restart{Retries: 3}, Load: &LoadParams{
		Meta: map[string]any{"d": 1}, Model: "e", Pin: Ptr(true), KeepAliveSeconds: Ptr(1.5), Adapter: Ptr("f")},
		Cmd: exec.Command("/bin/true", "g")}
	given.Cmd.Env = []string{"h=i"}
	copied := given.copied()
	if !reflect.DeepEqual(given, copied) {
		t.Errorf("got %+v", copied)
	}
	var compare func(string, reflect.Value, reflect.Value)
	compare = func(name string, one, other reflect.Value) {
		switch one.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map:
			if !one.IsNil() && one.Pointer() == other.Pointer() {
				t.Errorf("%s is shared", name)
			}
			if one.Kind() == reflect.Pointer && !one.IsNil() {
				compare(name, one.Elem(), other.Elem())
			}
		case reflect.Struct:
			for at := range one.NumField() {
				compare(name+"."+one.Type().Field(at).Name, one.Field(at), other.Field(at))
			}
		}
	}
	compare("Options", reflect.ValueOf(given), reflect.ValueOf(copied))
}

func TestTimesThatAreZeroOrNegative(t *testing.T) {
	standard, none := Options{}, Options{HandshakeTimeout: -1, Grace: -1, TermGrace: -1}
	if standard.handshakeTimeout() != 10*time.Second || standard.grace() != 5*time.Second || standard.termGrace() != 2*time.Second {
		t.Error("not as the page has it")
	}
	if none.handshakeTimeout() != math.MaxInt64 || none.grace() != 0 || none.termGrace() != 0 {
		t.Error("not as the page has it")
	}
	for _, policy := range []Restart{{Wait: -1}, {Wait: math.MinInt64}, {MaxWait: -1}, {Wait: -1, MaxWait: time.Hour}} {
		if wait := policy.wait(math.MaxInt); wait != 0 {
			t.Errorf("%+v: %v", policy, wait)
		}
	}
	for _, row := range []struct {
		policy   Restart
		failures int
		want     bool
	}{{Restart{}, 4, false}, {Restart{}, 5, true}, {Restart{Attempts: 2}, 2, true}, {Restart{Attempts: -1}, math.MaxInt, false}} {
		if row.policy.givesUp(row.failures) != row.want {
			t.Errorf("%+v after %d", row.policy, row.failures)
		}
	}
}

// One that says nothing may be waited for, too, if that is wanted.
func TestAHandshakeWithoutATimeout(t *testing.T) {
	noLeaks(t)
	options := shellEngine("read more")
	options.Cmd.Args[2] = "sleep 0.2; " + options.Cmd.Args[2]
	options.HandshakeTimeout = -1
	start(t, options)
}

// Attempts without a limit go on, and Close ends them.
func TestRestartsWithoutALimit(t *testing.T) {
	noLeaks(t)
	options := shellEngine("exit 9")
	options.Restart = &Restart{Attempts: -1, Wait: -1}
	left := make(chan struct{}, 100)
	options.OnExit = func(exit *ExitError) {
		if !strings.Contains(exit.Error(), "exit code 9") {
			t.Errorf("got %v", exit)
		}
		left <- struct{}{}
	}
	c := start(t, options)
	for range 7 {
		<-left
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
