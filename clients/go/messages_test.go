package mlxstdio

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What a real engine says in a conversation of all methods that work.
func TestRealMessagesRoundTrip(t *testing.T) {
	asked := [][2]string{
		{MethodInitialize, `{"protocolVersion":1}`},
		{MethodPing, `{}`},
		{MethodModelsList, `{}`},
		{MethodGenerate, `{"prompt":"def f","maxTokens":4,"logprobs":2,"streamToken":"a"}`},
		{MethodGenerate, `{"prompt":"def f","maxTokens":1,"stream":false}`},
		{MethodChat, `{"messages":[{"role":"user","content":"hello"}],"maxTokens":3}`},
		{MethodInfill, `{"prefix":"def","suffix":"return","maxTokens":3}`},
		{MethodModelsLoad, `{"model":"pico","pin":true,"keepAliveSeconds":9}`},
		{MethodTokenize, `{"text":"hello"}`},
		{MethodDetokenize, `{"tokens":[70,71]}`},
		{MethodApplyTemplate, `{"messages":[{"role":"user","content":"hello"}]}`},
		{MethodModelsList, `{}`},
		{MethodEngineStatus, `{}`},
		{MethodModelsUnload, `{"model":"pico"}`},
	}
	var input bytes.Buffer
	for id, row := range asked {
		line, err := json.Marshal(map[string]any{
			"jsonrpc": "2.0", "id": id, "method": row[0], "params": json.RawMessage(row[1]),
		})
		if err != nil {
			t.Fatal(err)
		}
		input.Write(append(line, '\n'))
	}
	engine := realEngine(t, "--max-concurrent", "1")
	engine.Stdin = &input // Its end is the end of the conversation.
	output, err := engine.Output()
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	lines := bufio.NewReader(bytes.NewReader(output))
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			break
		}
		var message struct {
			ID             int
			Method         string
			Params, Result json.RawMessage
		}
		if err := json.Unmarshal(line, &message); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		switch {
		case message.Method != "":
			roundTrip(t, noteOf[message.Method](), message.Params)
			seen[message.Method] = true
		case message.Result == nil:
			t.Errorf("an error: %s", line)
		default:
			method := asked[message.ID][0]
			roundTrip(t, resultOf[method](), message.Result)
			seen[method] = true
		}
	}
	for method := range resultOf {
		if !seen[method] && method != MethodEmbed {
			t.Errorf("nothing came for %s", method)
		}
	}
	for _, note := range []string{NotificationStreamDelta, NotificationModelsChanged} {
		if !seen[note] {
			t.Errorf("no %s came", note)
		}
	}
}

// realEngine is the command of $MLX_STDIO_COMMAND, or the engine of this checkout.
func realEngine(t testing.TB, options ...string) *exec.Cmd {
	t.Helper()
	command := strings.Fields(os.Getenv("MLX_STDIO_COMMAND"))
	if len(command) == 0 {
		command = checkoutEngine(t)
	}
	engine := exec.Command(command[0], append(command[1:], options...)...)
	engine.Dir = "../.."
	return engine
}

// checkoutEngine is the command of the engine of this checkout; it is to be run at its root.
func checkoutEngine(t testing.TB) []string {
	t.Helper()
	python, err := filepath.Abs("../../.venv/bin/python")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(python); err != nil {
		t.Skip("no engine: run `make setup`, or set MLX_STDIO_COMMAND")
	}
	return []string{python, "-m", "mlx_stdio"}
}
