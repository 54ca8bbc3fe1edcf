package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/internal/enginetest"
)

func TestMain(m *testing.M) { enginetest.Main(m, main) }

// chatWith starts the chat with an engine, and waits until it is ready.
func chatWith(t *testing.T, engine []string, flags ...string) *enginetest.Program {
	t.Helper()
	arguments := append([]string{"-engine", engine[0]}, flags...)
	chat := enginetest.Run(t, append(append(arguments, "--"), engine[1:]...)...)
	chat.Err.Until("is ready]\n")
	return chat
}

func ends(t *testing.T, chat *enginetest.Program, code int) {
	t.Helper()
	if got := chat.Wait(); got != code {
		t.Errorf("exit code %d, not %d", got, code)
	}
}

// A whole conversation with a real model.
func TestRealEngine(t *testing.T) {
	chat := chatWith(t, enginetest.Real(t), "-v", "-max-tokens", "8", "-temperature", "0", "-system", "Be brief.")
	if !strings.Contains(chat.Err.All(), "[loading 100%]") {
		t.Errorf("the load was not shown: %q", chat.Err.All())
	}
	chat.Type("hello\n")
	chat.Err.Until(" tokens, ")
	chat.Err.Until(" tokens/s")
	first := chat.Out.All()
	if strings.TrimSpace(first) == "" {
		t.Error("there is no answer")
	}
	chat.Type("/reset\nhello\n")
	chat.Err.Until(" tokens, ")
	if again := chat.Out.All()[len(first):]; again != first {
		t.Errorf("after a reset the answer is %q, before it was %q", again, first)
	}
	chat.EndInput()
	ends(t, chat, 0)
}

// The answer is seen while the engine still works on it; Ctrl-C ends that answer, whose text stays in
// the conversation; another Ctrl-C, at the prompt, ends the chat.
func TestStreamsAndInterrupt(t *testing.T) {
	const script = `{"rules": [
		{"method": "chat", "params": {"messages": [{"role": "user", "content": "count"}]},
			"steps": [{"delta": "one "}, {"delta": "two"}, {"silent": true}]},
		{"method": "chat", "params": {"messages": [{"role": "user", "content": "count"},
				{"role": "assistant", "content": "one two"}, {"role": "user", "content": "on"}]},
			"steps": [{"delta": "three"}, {"delta": " four"}]}]}`
	chat := chatWith(t, enginetest.Fake(t, script))
	chat.Type("count\n")
	chat.Out.Until("one two") // of a reply that never ends
	chat.Interrupt()
	chat.Err.Until("[cancelled]")
	chat.Type("on\n")
	chat.Out.Until("three four\n")
	chat.Type("/nonsense\n") // answered at the prompt, so that there is no doubt where the chat is
	chat.Err.Until("no /nonsense")
	chat.Interrupt()
	ends(t, chat, 0)
	if all := chat.Out.All(); all != "one two\nthree four\n" {
		t.Errorf("the output is %q", all)
	}
}

// A question that fails is told, and is no part of the conversation.
func TestErrorsGoOn(t *testing.T) {
	const script = `{"rules": [
		{"method": "chat", "times": 1, "steps": [{"error": {"kind": "overloaded", "message": "busy"}}]},
		{"method": "chat", "times": 1, "steps": [{"error": {"kind": "contextLengthExceeded"}}]},
		{"method": "chat", "params": {"messages": [{"role": "user", "content": "third"}]},
			"steps": [{"delta": "heard"}]}]}`
	chat := chatWith(t, enginetest.Fake(t, script))
	chat.Type("first\n")
	chat.Err.Until("busy")
	chat.Type("second\n")
	chat.Err.Until("/reset begins a new conversation")
	chat.Type("third\n")
	chat.Out.Until("heard\n")
	chat.Type("/quit\n")
	ends(t, chat, 0)
}

// An engine that dies in an answer is told and started again.
func TestCrashInAnAnswer(t *testing.T) {
	const script = `{"rules": [{"method": "chat", "params": {"messages": [{"role": "user", "content": "crash"}]},
		"steps": [{"delta": "half an "}, {"signal": "SIGKILL"}]}]}`
	chat := chatWith(t, enginetest.Fake(t, script))
	chat.Type("crash\n")
	chat.Out.Until("half an \n")
	chat.Type("still there?\n")
	chat.Out.Until("still there?\n") // the fake repeats it
	for _, note := range []string{"started again]\n", "after some of its text"} {
		if !strings.Contains(chat.Err.All(), note) {
			t.Errorf("nothing said %q", note)
		}
	}
	chat.EndInput()
	ends(t, chat, 0)
}

// A question to an engine that dies before it says anything is asked again, which is told.
func TestCrashBeforeAnAnswer(t *testing.T) {
	crashes := enginetest.Fake(t, `{"rules": [{"method": "chat", "steps": [{"signal": "SIGKILL"}]}]}`)
	answers := enginetest.Fake(t, `{"rules": [{"method": "chat", "steps": [{"delta": "answered"}]}]}`)
	started := filepath.Join(t.TempDir(), "started")
	line := fmt.Sprintf(`if mkdir '%s' 2>/dev/null; then exec '%s'; else exec '%s'; fi`,
		started, strings.Join(crashes, "' '"), strings.Join(answers, "' '"))
	chat := chatWith(t, []string{"/bin/sh", "-c", line})
	chat.Type("hello\n")
	chat.Out.Until("answered\n")
	chat.Err.Until("asked again")
	chat.EndInput()
	ends(t, chat, 0)
}

// An engine that cannot be started any more is the end of the chat.
func TestGivesUp(t *testing.T) {
	crashes := enginetest.Fake(t, `{"rules": [{"method": "chat", "steps": [{"signal": "SIGKILL"}]}]}`)
	started := filepath.Join(t.TempDir(), "started")
	line := fmt.Sprintf(`if mkdir '%s' 2>/dev/null; then exec '%s'; else exit 3; fi`,
		started, strings.Join(crashes, "' '"))
	chat := chatWith(t, []string{"/bin/sh", "-c", line})
	chat.Type("hello\n")
	chat.Err.Until("given up")
	ends(t, chat, 1)
}

func TestBadStarts(t *testing.T) {
	for name, row := range map[string]struct {
		arguments []string
		code      int
		says      string
	}{
		"flag":   {[]string{"-nonsense"}, 2, "usage: chat"},
		"help":   {[]string{"-help"}, 0, "usage: chat"},
		"number": {[]string{"-temperature", "warm"}, 2, "warm"},
		"engine": {[]string{"-engine", filepath.Join(os.DevNull, "none")}, 1, "chat: "},
	} {
		t.Run(name, func(t *testing.T) {
			chat := enginetest.Run(t, row.arguments...)
			ends(t, chat, row.code)
			if said := chat.Err.All(); !strings.Contains(said, row.says) {
				t.Errorf("it says %q", said)
			}
		})
	}
}

// A model that there is not ends the chat, and a Ctrl-C one that loads for ever.
func TestLoads(t *testing.T) {
	engine := enginetest.Fake(t, `{"models": ["slow"], "rules": [
		{"method": "models/load", "params": {"model": "slow"}, "steps": [
			{"progress": {"phase": "loading", "completed": 3, "total": 10, "unit": "bytes"}},
			{"silent": true}]}]}`)
	for model, says := range map[string]string{"none": "none", "slow": "[loading 30%]"} {
		t.Run(model, func(t *testing.T) {
			arguments := []string{"-engine", engine[0], "-model", model, "--"}
			chat := enginetest.Run(t, append(arguments, engine[1:]...)...)
			chat.Err.Until(says)
			if model == "slow" {
				chat.Interrupt()
			}
			ends(t, chat, 1)
		})
	}
}
