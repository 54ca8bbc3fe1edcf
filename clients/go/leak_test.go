package mlxstdio

import "testing"

// The tests that look for goroutines left behind have to see them.
func TestLeaksAreSeen(t *testing.T) {
	before := len(ours())
	c, _ := connect(t, Options{})
	if during := len(ours()); during < before+2 {
		t.Errorf("%d goroutines before, %d with a client", before, during)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	eventually(t, "they end", func() bool { return len(ours()) <= before })
}
