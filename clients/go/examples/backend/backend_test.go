package backend

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"testing"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

func TestTwoModelsInTurn(t *testing.T) {
	engine := realEngine(t)
	pico := load(t, engine, "pico")
	first := engine.Client().Pid()
	other := load(t, engine, copyOfPico(t))
	if engine.Client().Pid() != first || first == 0 {
		t.Errorf("the models have engines of their own: %d, %d", first, engine.Client().Pid())
	}
	for range 3 {
		if a, b := generate(t, pico, prompt, 4), generate(t, other, prompt, 4); a == "" || b == "" {
			t.Errorf("no text: %q, %q", a, b)
		}
	}
	resident := func() (count int) {
		models, err := engine.Client().Models(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for _, model := range models {
			if model.Pinned != nil && *model.Pinned {
				count++
			}
		}
		return count
	}
	if count := resident(); count != 2 {
		t.Errorf("%d models are pinned, not 2", count)
	}
	if err := other.Free(); err != nil {
		t.Fatal(err)
	}
	if count := resident(); count != 1 {
		t.Errorf("%d models are pinned after a Free, not 1", count)
	}
	generate(t, pico, prompt, 4)
}

func TestTheLastFreeEndsTheEngine(t *testing.T) {
	engine := realEngine(t)
	first, second := load(t, engine, "pico"), load(t, engine, "pico")
	generate(t, first, prompt, 1)
	if err := first.Free(); err != nil {
		t.Fatal(err)
	}
	generate(t, second, prompt, 1) // the same model has another user
	old := engine.Client().Pid()
	if err := second.Free(); err != nil {
		t.Fatal(err)
	}
	if engine.Client() != nil {
		t.Error("there is a client without a model")
	}
	if err := syscall.Kill(old, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the engine is still there: %v", err)
	}
	generate(t, load(t, engine, "pico"), prompt, 1)
	if engine.Client().Pid() == old {
		t.Error("no new engine was started")
	}
}

func TestUseAfterFree(t *testing.T) {
	engine := realEngine(t)
	model := load(t, engine, "pico")
	if err := model.Free(); err != nil {
		t.Fatal(err)
	}
	if _, err := model.Generate(prompt, 1); !errors.Is(err, ErrFreed) {
		t.Errorf("Generate after Free: %v", err)
	}
	if err := model.Free(); !errors.Is(err, ErrFreed) {
		t.Errorf("Free after Free: %v", err)
	}
}

func TestConcurrentCalls(t *testing.T) {
	engine := realEngine(t)
	model := load(t, engine, "pico")
	const calls = 4
	var alone, together [calls]string
	prompts := func(i int) string { return fmt.Sprintf("x = %d\n\n%s", i, prompt) }
	for i := range calls {
		alone[i] = generate(t, model, prompts(i), 16)
	}
	var wait sync.WaitGroup
	for i := range calls {
		wait.Add(1)
		go func() {
			defer wait.Done()
			text, err := model.Generate(prompts(i), 16)
			if err != nil {
				t.Error(err)
			}
			together[i] = text
		}()
	}
	wait.Wait()
	if alone != together {
		t.Errorf("the texts differ:\n%q\n%q", alone, together)
	}
}

// Free waits for a call in flight, which a binding without a lock would crash on.
func TestFreeDuringACall(t *testing.T) {
	engine := realEngine(t)
	model := load(t, engine, "pico")
	answered := make(chan error, 1)
	begun := make(chan struct{})
	go func() {
		close(begun)
		text, err := model.Generate(prompt, 200)
		if err == nil && text == "" {
			err = errors.New("no text")
		}
		answered <- err
	}()
	<-begun
	if err := model.Free(); err != nil {
		t.Error(err)
	}
	// Whichever came first, nothing is half done.
	if err := <-answered; err != nil && !errors.Is(err, ErrFreed) {
		t.Error(err)
	}
}

func TestRefusals(t *testing.T) {
	engine := realEngine(t)
	if _, err := engine.Load("/no/such/model"); !errors.Is(err, mlxstdio.KindModelNotFound) {
		t.Errorf("a model that is not there: %v", err)
	}
	if engine.Client() != nil {
		t.Error("an engine without a model is still there")
	}
	model := load(t, engine, "pico")
	for _, maxTokens := range []int{0, -1} {
		if _, err := model.Generate(prompt, maxTokens); err == nil {
			t.Errorf("%d tokens: no error", maxTokens)
		}
	}
	if _, err := model.Generate(prompt, 1<<40); !errors.Is(err, mlxstdio.KindInvalidParams) {
		t.Errorf("too many tokens: %v", err)
	}
	missing := New(mlxstdio.Options{Command: "/no/such/engine"})
	if _, err := missing.Load("pico"); err == nil {
		t.Error("an engine that is not there: no error")
	}
}
