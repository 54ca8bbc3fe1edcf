// Package host is the program around a backend that is measured: package compare spawns it, and
// tells it line by line what to do. Both backends have the same one, but for what New makes.
package host

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/mlx-stdio/mlx-stdio/clients/go/examples/backend"
)

// Contender is a way to build a backend.
type Contender struct {
	Load func(model string) (backend.Backend, error)

	// A call that does nothing, there and back.
	Wire func() error

	// The process id of the engine; nil where that is the host.
	Engine func() int
}

// Command is what the host is told to do: load a Model; generate with it, for one prompt after the
// other or for all at once; free it; call through the wire so many times; tell the engine's id.
type Command struct {
	Do        string   `json:"do"`
	Model     string   `json:"model,omitempty"`
	Prompts   []string `json:"prompts,omitempty"`
	MaxTokens int      `json:"maxTokens,omitempty"`
	AtOnce    bool     `json:"atOnce,omitempty"`
	Times     int      `json:"times,omitempty"`
}

// Answer is what came of it: the milliseconds of each, or of all if they were done at once.
type Answer struct {
	Ms    []float64 `json:"ms"`
	Texts []string  `json:"texts,omitempty"`
	PID   int       `json:"pid,omitempty"`
	Error string    `json:"error,omitempty"`
}

// Main answers commands until the end of the input.
func Main(contender Contender) {
	models := map[string]backend.Backend{}
	input, output := bufio.NewReader(os.Stdin), json.NewEncoder(os.Stdout)
	for {
		line, err := input.ReadBytes('\n')
		if err != nil {
			break
		}
		var command Command
		answer := Answer{}
		if err := json.Unmarshal(line, &command); err != nil {
			answer.Error = err.Error()
		} else if err := do(contender, models, command, &answer); err != nil {
			answer.Error = err.Error()
		}
		if err := output.Encode(answer); err != nil {
			break
		}
	}
	for _, model := range models {
		_ = model.Free()
	}
}

func do(contender Contender, models map[string]backend.Backend, command Command, answer *Answer) error {
	switch command.Do {
	case "load":
		return answer.measure(func() error {
			model, err := contender.Load(command.Model)
			if err == nil {
				models[command.Model] = model
			}
			return err
		})
	case "free":
		model := models[command.Model]
		delete(models, command.Model)
		return answer.measure(model.Free)
	case "engine":
		if contender.Engine != nil {
			answer.PID = contender.Engine()
		}
		return nil
	case "wire":
		for range command.Times {
			if err := answer.measure(contender.Wire); err != nil {
				return err
			}
		}
		return nil
	case "generate":
		model := models[command.Model]
		if model == nil {
			return fmt.Errorf("%s is not loaded", command.Model)
		}
		if command.AtOnce {
			return answer.measure(func() error { return together(model, command, answer) })
		}
		for _, prompt := range command.Prompts {
			err := answer.measure(func() error {
				text, err := model.Generate(prompt, command.MaxTokens)
				answer.Texts = append(answer.Texts, text)
				return err
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
	return fmt.Errorf("no such command: %q", command.Do)
}

func together(model backend.Backend, command Command, answer *Answer) error {
	answer.Texts = make([]string, len(command.Prompts))
	errs := make([]error, len(command.Prompts))
	var wait sync.WaitGroup
	for i, prompt := range command.Prompts {
		wait.Add(1)
		go func() {
			defer wait.Done()
			answer.Texts[i], errs[i] = model.Generate(prompt, command.MaxTokens)
		}()
	}
	wait.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

func (a *Answer) measure(work func() error) error {
	began := time.Now()
	err := work()
	a.Ms = append(a.Ms, float64(time.Since(began).Microseconds())/1000)
	return err
}
