// Command compare measures the two ways to build a backend, in one run: package backend, whose engine
// is a process of its own, and the module cgo, which has Python in the host's process. They live in
// turn, several times; the table has medians, and the medians of each pair's ratio.
//
//	go run ./examples/backend/compare                      # in the client's folder; 5 lives of each
//	go run ./examples/backend/compare -write examples/backend/README.md
//
// It needs Linux or macOS, the checkout's .venv, and what the cgo module needs to be built.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strings"
)

const (
	begin = "<!-- begin of the generated figures -->"
	end   = "<!-- end of the generated figures -->"
)

// contender is one of the two.
type contender struct {
	name   string
	binary string

	// Arguments of its host, and what is added for one that runs a model's own code.
	arguments, trust []string
	environment      []string

	built *built
	lives []*life
	crash []*crash
}

func main() {
	log.SetFlags(0)
	lives := flag.Int("lives", 5, "lives of each contender")
	crashes := flag.Int("crashes", 3, "crashes of each contender")
	root := flag.String("root", "../..", "the repository")
	write := flag.String("write", "", "a file whose generated part is written anew")
	flag.Parse()
	if err := run(*root, *lives, *crashes, *write); err != nil {
		log.Fatal(err)
	}
}

func run(root string, lives, crashes int, write string) (err error) {
	root, err = filepath.Abs(root)
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "compare")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	python := filepath.Join(root, ".venv", "bin", "python")
	engine := []string{python, "-m", "mlx_stdio"}
	both := []*contender{
		{name: "stdio", arguments: engine, trust: []string{"--trust-remote-code"}},
		{name: "cgo", trust: []string{"trust"}, environment: []string{"MLX_PYTHON=" + python}},
	}
	if err := buildAll(both, root, python, folder); err != nil {
		return err
	}
	model := filepath.Join(root, "mlx_stdio", "pico")
	poison, err := makePoison(model, folder)
	if err != nil {
		return err
	}
	for number := range lives + 1 { // the first ones warm the disk's cache
		for _, each := range inTurn(both, number) {
			start, err := each.live(model, number, true)
			if err != nil {
				return fmt.Errorf("%s: %w", each.name, err)
			}
			if number == 0 {
				continue
			}
			lived, err := each.live(model, number, false)
			if err != nil {
				return fmt.Errorf("%s: %w", each.name, err)
			}
			log.Printf("%s: life %d: first token after %.0f ms", each.name, number, lived.firstToken)
			lived.processor = start.processor
			each.lives = append(each.lives, lived)
		}
	}
	for number := range crashes {
		for _, each := range inTurn(both, number) {
			crashed, err := each.fall(model, poison)
			if err != nil {
				return fmt.Errorf("%s: a crash: %w", each.name, err)
			}
			log.Printf("%s: crash %d: the host %s", each.name, number, crashed.fate)
			each.crash = append(each.crash, crashed)
		}
	}
	return publish(table(both[0], both[1]), write)
}

func inTurn(both []*contender, number int) []*contender {
	if number%2 == 0 {
		return both
	}
	return []*contender{both[1], both[0]}
}

// publish prints, or replaces what stands between the two marks.
func publish(text, path string) error {
	if path == "" {
		fmt.Print(text)
		return nil
	}
	page, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(page), begin)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		return fmt.Errorf("%s has no place for the figures", path)
	}
	return os.WriteFile(path, []byte(before+begin+"\n\n"+text+"\n"+end+after), 0o644)
}
