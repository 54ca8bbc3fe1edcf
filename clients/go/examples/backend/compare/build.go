package main

import (
	"fmt"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// built is what it takes to make a host.
type built struct {
	cold      time.Duration // processor time with an empty cache: the standard library too
	size      int64
	libraries []string // that the binary looks for when it starts
	alone     string   // whether it can be built with no C compiler
	foreign   string   // whether it can be built for macOS, on Linux
}

func buildAll(both []*contender, root, python, folder string) error {
	client := filepath.Join(root, "clients", "go")
	for _, each := range both {
		each.binary = filepath.Join(folder, each.name)
		binding := each.name == "cgo"
		build := func(output string, environment ...string) (said string, spent time.Duration, err error) {
			var command *exec.Cmd
			if binding {
				command = exec.Command("/bin/sh", "with-python.sh", python, "go", "build", "-o", output, "./host")
				command.Dir = filepath.Join(client, "examples", "backend", "cgo")
			} else {
				command = exec.Command("go", "build", "-o", output, "./examples/backend/compare/stdio")
				command.Dir = client
				environment = append(environment, "CGO_ENABLED=0")
			}
			command.Env = append(os.Environ(), environment...)
			written, err := command.CombinedOutput()
			if state := command.ProcessState; state != nil { // with the compilers that it waited for
				spent = state.UserTime() + state.SystemTime()
			}
			return string(written), spent, err
		}
		cache := filepath.Join(folder, "cache-"+each.name)
		said, spent, err := build(each.binary, "GOCACHE="+cache)
		if err != nil {
			return fmt.Errorf("%s: %w: %s", each.name, err, said)
		}
		each.built = &built{cold: spent}
		log.Printf("%s: built in %v", each.name, each.built.cold)
		file, err := os.Stat(each.binary)
		if err != nil {
			return err
		}
		each.built.size = file.Size()
		each.built.libraries = libraries(each.binary)
		unused := filepath.Join(folder, "unused")
		said, _, err = build(unused, "GOCACHE="+cache, "CC=no-compiler")
		each.built.alone = outcome(said, err)
		said, _, err = build(unused, "GOCACHE="+cache, "GOOS=darwin", "GOARCH=arm64")
		each.built.foreign = outcome(said, err)
	}
	return nil
}

func outcome(said string, err error) string {
	if err == nil {
		return "builds"
	}
	for line := range strings.Lines(said) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			return "does not: `" + strings.ReplaceAll(clip(line), "|", "\\|") + "`"
		}
	}
	return "does not"
}

func clip(line string) string {
	const shown = 110
	if runes := []rune(line); len(runes) > shown {
		return string(runes[:shown]) + "…"
	}
	return line
}

// libraries are the names of what a dynamic binary needs; none for a static one, and where there is
// no ldd.
func libraries(binary string) (names []string) {
	said, err := exec.Command("ldd", binary).Output()
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(said)) {
		if name, _, found := strings.Cut(strings.TrimSpace(line), " => "); found {
			names = append(names, name)
		}
	}
	return names
}
