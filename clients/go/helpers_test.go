package mlxstdio

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long a test waits before it fails; never a measure of speed.
const patience = 60 * time.Second

func TestMain(m *testing.M) {
	if phase := os.Getenv(hostVariable); phase != "" {
		os.Exit(beHost(phase))
	}
	os.Exit(m.Run())
}

func limited(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits until something holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("never: %s", what)
		}
	}
}

// noLeaks fails where a goroutine of this package outlives the test.
func noLeaks(t *testing.T) {
	t.Helper()
	before := ours()
	t.Cleanup(func() {
		for end := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			left := ours()
			if len(left) <= len(before) {
				return
			}
			if time.Now().After(end) {
				t.Errorf("%d goroutines before, %d after:\n%s", len(before), len(left), strings.Join(left, "\n\n"))
				return
			}
		}
	})
}

// ours are the goroutines of the client's code, not those of the tests.
func ours() (found []string) {
	own := reflect.TypeFor[Client]().PkgPath() + "." // as a stack names its functions
	stacks := make([]byte, 1<<20)
	stacks = stacks[:runtime.Stack(stacks, true)]
	for _, stack := range strings.Split(string(stacks), "\n\n") {
		if strings.Contains(stack, own) && !strings.Contains(stack, "_test.go") {
			found = append(found, stack)
		}
	}
	return found
}

// startFake starts the fake engine with a script, which may be empty.
func startFake(t *testing.T, script string, options Options, arguments ...string) *Client {
	t.Helper()
	options.Cmd = fakeCommand(t, script, arguments...)
	return start(t, options)
}

func start(t *testing.T, options Options) *Client {
	t.Helper()
	options.HandshakeTimeout = or(options.HandshakeTimeout, patience)
	c, err := Start(limited(t), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func fakeCommand(t *testing.T, script string, arguments ...string) *exec.Cmd {
	t.Helper()
	command, folder := conformanceCommand(t)
	if script != "" {
		file := filepath.Join(t.TempDir(), "script.json")
		if err := os.WriteFile(file, []byte(script), 0o600); err != nil {
			t.Fatal(err)
		}
		arguments = append(arguments, "--script", file)
	}
	if os.Getenv("MLX_STDIO_COMMAND") != "" {
		t.Skip("needs the fake engine")
	}
	cmd := exec.Command(command[0], append(command[1:], arguments...)...)
	cmd.Dir = folder
	return cmd
}

// peer is an engine played by a test, on the other end of a stream in memory.
type peer struct {
	t      *testing.T
	stream net.Conn
	lines  *bufio.Reader
	over   atomic.Bool // the test has ended, and with it what is expected of the client
}

func connect(t *testing.T, options Options) (*Client, *peer) {
	t.Helper()
	ours, theirs := net.Pipe()
	c, p := NewClient(ours, options), &peer{t: t, stream: theirs, lines: bufio.NewReader(theirs)}
	t.Cleanup(func() {
		p.over.Store(true)
		_ = theirs.Close()
		_ = c.Close()
	})
	return c, p
}

// message is the next that the client has sent.
type sent struct {
	ID     json.RawMessage
	Method string
	Params map[string]any
}

func (p *peer) read() (found sent) {
	line, err := p.lines.ReadBytes('\n')
	if err != nil {
		p.fail("the client has sent nothing: %v", err)
		return found
	}
	if err := json.Unmarshal(line, &found); err != nil {
		p.fail("%v: %s", err, line)
	}
	return found
}

func (p *peer) write(format string, values ...any) {
	if _, err := io.WriteString(p.stream, fmt.Sprintf(format, values...)+"\n"); err != nil {
		p.fail("the client does not read: %v", err)
	}
}

func (p *peer) fail(format string, values ...any) {
	if !p.over.Load() {
		p.t.Errorf(format, values...)
	}
}

func (p *peer) delta(id json.RawMessage, seq int, text string) {
	p.write(`{"jsonrpc":"2.0","method":"stream/delta","params":{"requestId":%s,"seq":%d,"text":%q,"channel":"content","tokens":[%d]}}`,
		id, seq, text, seq)
}

func (p *peer) reply(id json.RawMessage, result string) {
	p.write(`{"jsonrpc":"2.0","id":%s,"result":%s}`, id, result)
}

// outcome is the result of a `generate`.
func outcome(text string) string {
	return fmt.Sprintf(`{"model":"m","finishReason":"stop","usage":{},"timings":{},"seed":1,"text":%q}`, text)
}
