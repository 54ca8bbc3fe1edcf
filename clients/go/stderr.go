package mlxstdio

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// What is kept of an engine's last words, and of one line of them.
const (
	tailBytes = 8 << 10
	lineBytes = 64 << 10
)

// stderrLog reads all that an engine writes to its standard error, always: one that is not read
// would lose lines, and a library that writes there would block.
type stderrLog struct {
	log      *slog.Logger
	done     chan struct{}
	activity atomic.Int64

	mu   sync.Mutex
	last []byte
}

func newStderrLog(log *slog.Logger) *stderrLog {
	return &stderrLog{log: log, done: make(chan struct{})}
}

func (s *stderrLog) drain(from io.Reader) {
	defer close(s.done)
	reader := bufio.NewReaderSize(from, lineBytes)
	continued := false
	for {
		line, err := reader.ReadSlice('\n')
		if len(line) > 0 {
			s.activity.Add(1)
			s.keep(line)
			if !continued { // of a line that is too long, the first part is enough
				s.report(line)
			}
		}
		continued = errors.Is(err, bufio.ErrBufferFull)
		if err != nil && !continued {
			return
		}
	}
}

func (s *stderrLog) keep(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = append(s.last, line...)
	if over := len(s.last) - tailBytes; over > tailBytes {
		s.last = append(s.last[:0], s.last[over:]...)
	}
}

// tail is the end of what was written.
func (s *stderrLog) tail() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return string(s.last[max(0, len(s.last)-tailBytes):])
}

var levels = map[string]slog.Level{
	"debug": slog.LevelDebug, "info": slog.LevelInfo, "warning": slog.LevelWarn, "error": slog.LevelError,
}

// report hands a line to the host's log: one of the engine's own by its event and fields, another as
// it stands.
func (s *stderrLog) report(line []byte) {
	text := string(trimEnd(line))
	if text == "" {
		return
	}
	var fields map[string]any
	if json.Unmarshal(line, &fields) != nil {
		fields = nil
	}
	event, isEvent := fields["event"].(string)
	name, _ := fields["level"].(string)
	level, isLevel := levels[name]
	if !isEvent || !isLevel {
		s.log.Info("stderr", "text", text)
		return
	}
	if !s.log.Enabled(context.Background(), level) {
		return
	}
	when := time.Now()
	if seconds, ok := fields["time"].(float64); ok {
		whole, part := math.Modf(seconds)
		when = time.Unix(int64(whole), int64(part*1e9))
	}
	record := slog.NewRecord(when, level, event, 0)
	for _, name := range sortedKeys(fields) {
		if name != "event" && name != "level" && name != "time" {
			record.AddAttrs(slog.Any(name, fields[name]))
		}
	}
	_ = s.log.Handler().Handle(context.Background(), record)
}

func trimEnd(line []byte) []byte {
	for len(line) > 0 && (line[len(line)-1] == '\n' || line[len(line)-1] == '\r') {
		line = line[:len(line)-1]
	}
	return line
}

func sortedKeys(fields map[string]any) []string { return slices.Sorted(maps.Keys(fields)) }
