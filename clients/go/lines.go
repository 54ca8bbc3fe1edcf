package mlxstdio

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
)

// lines reads messages, of which each is a line.
type lines struct {
	from *bufio.Reader
	long []byte // what there is of one that the reader's buffer does not hold
}

func newLines(from io.Reader) *lines { return &lines{from: bufio.NewReaderSize(from, 64*1024)} }

// next gives a line, which stays as it is until the next one is read; io.EOF is the end of the stream.
// A longer one than the most is an error: what never ends must not take all of the host's memory.
func (l *lines) next(most int) ([]byte, error) {
	l.long = nil
	for {
		line, err := l.from.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			if start := bytes.TrimSpace(line); len(l.long) == 0 && (len(start) == 0 || start[0] != '{' && start[0] != '[') {
				return nil, newStreamError(line, "it does not end") // what is no message is not collected
			}
			l.long = append(l.long, line...)
			if len(l.long) > most {
				return nil, newStreamError(l.long, fmt.Sprintf("it is longer than %d bytes", most))
			}
			continue
		}
		if len(l.long) > 0 {
			line = append(l.long, line...)
		}
		if err != nil && len(bytes.TrimSpace(line)) > 0 {
			return nil, newStreamError(line, "its last message is cut short")
		}
		return line, err
	}
}

// longestLine is far beyond what an engine has to say, which depends on what it is asked and has no bound
// of its own: it stops one that has gone wrong before the host has no memory left.
const longestLine = 1 << 30
