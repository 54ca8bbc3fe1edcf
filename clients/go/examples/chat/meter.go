package main

import (
	"fmt"
	"os"
	"sync"

	mlxstdio "github.com/mlx-stdio/mlx-stdio/clients/go"
)

// meter writes to standard error: notes, each on a line of its own, and how far a request has come.
// On a terminal that is one line which changes; elsewhere a line for each change.
type meter struct {
	file     *os.File
	terminal bool

	mu    sync.Mutex
	shown string // of the progress; empty where there is none on the screen
}

func newMeter(file *os.File) *meter { return &meter{file: file, terminal: isTerminal(file)} }

// show is for [mlxstdio.OnProgress].
func (m *meter) show(progress mlxstdio.Progress) {
	text := string(progress.Phase)
	if progress.Phase != mlxstdio.PhaseQueued && progress.Total > 0 {
		text += fmt.Sprintf(" %d%%", 100*progress.Completed/progress.Total)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if text == m.shown {
		return
	}
	if m.terminal {
		fmt.Fprintf(m.file, "\r%s\x1b[K", text)
	} else {
		fmt.Fprintf(m.file, "[%s]\n", text)
	}
	m.shown = text
}

// clear takes the progress off the screen.
func (m *meter) clear() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipe()
}

func (m *meter) wipe() {
	if m.terminal && m.shown != "" {
		fmt.Fprint(m.file, "\r\x1b[K")
	}
	m.shown = ""
}

// say writes a note.
func (m *meter) say(format string, values ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.wipe()
	fmt.Fprintf(m.file, "[%s]\n", fmt.Sprintf(format, values...))
}

func isTerminal(file *os.File) bool {
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
