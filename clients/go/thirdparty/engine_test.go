package thirdparty

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creachadair/jrpc2"
	"github.com/creachadair/jrpc2/channel"
)

// patience is how long a test waits for the engine before it fails; never a measure of speed.
const patience = 60 * time.Second

// delta is what these tests read of a `stream/delta`.
type delta struct {
	RequestID json.RawMessage `json:"requestId"`
	Seq       int             `json:"seq"`
	Text      string          `json:"text"`
}

// outcome is what these tests read of a generation's result.
type outcome struct {
	Text         string `json:"text"`
	FinishReason string `json:"finishReason"`
	Usage        struct {
		CompletionTokens int `json:"completionTokens"`
	} `json:"usage"`
}

// tap passes a channel through and keeps what came, in the order of the wire: the library hands
// each message to a goroutine of its own, so its callbacks do not tell the order.
type tap struct {
	channel.Channel
	mu    sync.Mutex
	lines [][]byte
}

func (t *tap) Recv() ([]byte, error) {
	line, err := t.Channel.Recv()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, append([]byte(nil), line...))
	return line, err
}

func (t *tap) received() [][]byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return append([][]byte(nil), t.lines...)
}

// peer is the library's client, and what surrounds it.
type peer struct {
	*jrpc2.Client
	tap    *tap
	deltas chan delta
	ctx    context.Context
	engine *exec.Cmd
}

// command is $MLX_STDIO_COMMAND, or the engine of this checkout.
func command(t *testing.T) []string {
	t.Helper()
	if given := strings.Fields(os.Getenv("MLX_STDIO_COMMAND")); len(given) > 0 {
		return given
	}
	python, err := filepath.Abs("../../../.venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("no engine: run `make setup`, or set MLX_STDIO_COMMAND")
	}
	return []string{python, "-m", "mlx_stdio"}
}

// connect spawns an engine and gives the library its pipes, with newline framing.
func connect(t *testing.T, opts jrpc2.ClientOptions) *peer {
	t.Helper()
	words := command(t)
	engine := exec.Command(words[0], words[1:]...)
	engine.Dir = "../../.."
	engine.Stderr = os.Stderr
	stdin, err := engine.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := engine.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	p := &peer{
		tap:    &tap{Channel: channel.Line(stdout, stdin)},
		deltas: make(chan delta, 4096),
		ctx:    ctx,
		engine: engine,
	}
	opts.OnNotify = func(note *jrpc2.Request) {
		var d delta
		if note.Method() == "stream/delta" && note.UnmarshalParams(&d) == nil {
			p.deltas <- d
		}
	}
	p.Client = jrpc2.NewClient(p.tap, &opts)
	t.Cleanup(func() {
		cancel()
		engine.Process.Kill() // Of no effect if it has left.
		p.Close()
		engine.Wait()
	})
	return p
}
