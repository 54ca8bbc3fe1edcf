package mlxstdio

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// A line that does not end takes no more memory than one that may come.
func TestALineThatIsTooLong(t *testing.T) {
	const most = 1 << 20
	text := `{"a":"` + strings.Repeat("x", most/2) + `"}` + "\n"
	from := newLines(strings.NewReader(text + "7\n" + text + `{` + strings.Repeat("x", 2*most)))
	for _, want := range []string{text, "7\n", text} {
		if line, err := from.next(most); err != nil || string(line) != want {
			t.Errorf("%d bytes, %v", len(line), err)
		}
	}
	line, err := from.next(most)
	var broken *streamError
	if !errors.As(err, &broken) || !strings.Contains(err.Error(), "longer than 1048576 bytes") || line != nil {
		t.Errorf("got %v", err)
	}
	if len(broken.line) > 1000 {
		t.Errorf("the error keeps %d bytes", len(broken.line))
	}
	if cap(from.long) > 2*most {
		t.Errorf("%d bytes were taken", cap(from.long))
	}
	if _, err := newLines(strings.NewReader("")).next(most); err != io.EOF {
		t.Errorf("got %v", err)
	}
}
