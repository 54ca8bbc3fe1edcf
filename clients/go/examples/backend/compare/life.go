package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend/internal/host"
)

const (
	patience = 3 * time.Minute // for one answer, also on a busy machine
	rest     = 3 * time.Second // until the memory is read
)

// running is a host.
type running struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
	stderr  bytes.Buffer
	since   time.Time
}

func (c *contender) spawn(more ...string) (*running, error) {
	r := &running{command: exec.Command(c.binary, append(append([]string{}, c.arguments...), more...)...)}
	r.command.Env = append(os.Environ(), c.environment...)
	r.command.Stderr = &r.stderr
	input, err := r.command.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := r.command.StdoutPipe()
	if err != nil {
		return nil, err
	}
	r.input, r.output, r.since = input, bufio.NewReader(output), time.Now()
	return r, r.command.Start()
}

// ask has the host do something. Its end is io.EOF.
func (r *running) ask(command host.Command) (*host.Answer, error) {
	line, err := json.Marshal(command)
	if err != nil {
		return nil, err
	}
	if _, err := r.input.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	late := time.AfterFunc(patience, func() { _ = r.command.Process.Kill() })
	defer late.Stop()
	line, err = r.output.ReadBytes('\n')
	if err != nil {
		return nil, err
	}
	answer := &host.Answer{}
	return answer, json.Unmarshal(line, answer)
}

// do is an ask that has to succeed.
func (r *running) do(command host.Command) (*host.Answer, error) {
	answer, err := r.ask(command)
	if err == nil && answer.Error != "" {
		err = fmt.Errorf("%s: %s", command.Do, answer.Error)
	}
	return answer, err
}

func (r *running) end() error {
	_ = r.input.Close()
	return r.command.Wait()
}

// life is what was measured of a host, in milliseconds and MiB.
type life struct {
	firstToken, load float64
	processor        float64 // time of it, for a start, a token and the end

	host, engine           float64 // memory
	hostAfter, engineAfter float64 // when the model was freed

	wire, one, many, atOnce float64
	texts                   []string
}

// live is one life, whose prompts are new in it and the same for both contenders. A short one is only
// a start and an end.
func (c *contender) live(model string, number int, short bool) (l *life, err error) {
	r, err := c.spawn()
	if err != nil {
		return nil, err
	}
	if !short {
		defer func() { _ = r.end() }()
	}
	l = &life{}
	prompts := 100 * number
	do := func(command host.Command) *host.Answer {
		var answer *host.Answer
		if err == nil {
			answer, err = r.do(command)
		}
		if err != nil { // the first error stays
			return &host.Answer{Ms: []float64{0}}
		}
		l.texts = append(l.texts, answer.Texts...)
		return answer
	}
	generate := func(count, tokens int, atOnce bool) []float64 {
		command := host.Command{Do: "generate", Model: model, MaxTokens: tokens, AtOnce: atOnce}
		for range count {
			prompts++
			command.Prompts = append(command.Prompts, fmt.Sprintf("x = %d\n\ndef area(width, height):\n", prompts))
		}
		return do(command).Ms
	}
	l.load = do(host.Command{Do: "load", Model: model}).Ms[0]
	generate(1, 1, false)
	l.firstToken = sinceMs(r.since)
	if short {
		err = errors.Join(err, r.end())
		state := r.command.ProcessState // with what it has waited for: its engine
		l.processor = float64((state.UserTime() + state.SystemTime()).Milliseconds())
		return l, err
	}
	time.Sleep(rest)
	own, engine := r.command.Process.Pid, do(host.Command{Do: "engine"}).PID
	l.host, l.engine = memory(own), memory(engine)
	l.one = median(generate(8, 1, false))
	l.many = median(generate(3, 64, false))
	l.atOnce = generate(4, 64, true)[0]
	l.wire = median(do(host.Command{Do: "wire", Times: 300}).Ms)
	do(host.Command{Do: "free", Model: model})
	time.Sleep(rest)
	l.hostAfter, l.engineAfter = memory(own), memory(engine)
	return l, err
}

// memory is the resident set, in MiB; 0 of a process that is not there.
func memory(pid int) float64 {
	if pid == 0 {
		return 0
	}
	said, err := exec.Command("ps", "-o", "rss=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return 0
	}
	kilobytes, _ := strconv.ParseFloat(strings.TrimSpace(string(said)), 64)
	return kilobytes / 1024
}
