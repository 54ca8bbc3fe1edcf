package mlxstdio

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// oneWay is like the two pipes of an ssh session: what is read has no Close.
type oneWay struct {
	io.Reader
	io.WriteCloser
}

// Close returns, too, where closing the stream does not end reading it; what comes later is nobody's.
func TestCloseOfAStreamThatIsStillRead(t *testing.T) {
	for name, requests := range map[string]int{"idle": 0, "in flight": 1} {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			input, far := io.Pipe()
			_, output := io.Pipe()
			c := NewClient(oneWay{input, output}, Options{Grace: time.Millisecond})
			ended := make(chan error, requests)
			for range requests {
				go func() { ended <- c.Ping(limited(t)) }()
			}
			eventually(t, "it is sent", func() bool { return c.conn.inFlight() == requests })
			closed := make(chan error, 1)
			go func() { closed <- c.Close() }()
			select {
			case err := <-closed:
				if err != nil {
					t.Error(err)
				}
			case <-time.After(patience / 2):
				t.Error("Close hangs")
			}
			for range requests {
				if err := <-ended; !errors.Is(err, ErrClosed) {
					t.Errorf("got %v", err)
				}
			}
			_, _ = io.WriteString(far, `{"jsonrpc":"2.0","id":1,"result":{}}`+"\n")
			_ = far.Close()
		})
	}
}

// mute is a stream that cannot be written.
type mute struct{ net.Conn }

var errMute = errors.New("the cable is cut")

func (m mute) Write([]byte) (int, error) { return 0, errMute }

// Why the transport failed is told, not only that it was closed then.
func TestAStreamThatCannotBeWritten(t *testing.T) {
	noLeaks(t)
	one, _ := net.Pipe()
	other, _ := net.Pipe()
	far, end := io.Pipe()
	defer end.Close()
	for name, stream := range map[string]io.ReadWriteCloser{"a pipe": mute{one}, "one way": oneWay{far, mute{other}}} {
		c := NewClient(stream, Options{})
		if err := c.Ping(limited(t)); !errors.Is(err, errMute) {
			t.Errorf("%s: %v", name, err)
		}
		<-c.Done()
		if !errors.Is(c.Err(), errMute) {
			t.Errorf("%s: %v", name, c.Err())
		}
	}
}

// An engine is told to leave by what was sent, not by what a host tried to send.
func TestAShutdownThatWasNotSent(t *testing.T) {
	noLeaks(t)
	c := startFake(t, `{"rules": [{"method": "generate", "steps": [{"delayMs": 20, "exit": 1}]}]}`,
		Options{Restart: &Restart{Wait: time.Millisecond, Retries: -1}})
	c.conn.limit.Store(200)
	long := map[string]string{"reason": strings.Repeat("x", 200)}
	for _, err := range []error{c.Call(limited(t), MethodShutdown, long, nil), c.Notify(limited(t), MethodExit, long)} {
		if err == nil || !strings.Contains(err.Error(), "the engine accepts 200") {
			t.Fatalf("got %v", err)
		}
	}
	var exit *ExitError
	if _, err := c.Generate(limited(t), prompt); !errors.As(err, &exit) {
		t.Errorf("got %v", err)
	}
	if err := c.Ping(limited(t)); err != nil { // started again
		t.Error(err)
	}
}
