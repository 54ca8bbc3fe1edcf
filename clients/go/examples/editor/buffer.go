package main

import "unicode/utf8"

// buffer is a text with a cursor in it.
type buffer struct{ before, after string }

func (b *buffer) insert(text string) { b.before += text }

func (b *buffer) backspace() {
	_, size := utf8.DecodeLastRuneInString(b.before)
	b.before = b.before[:len(b.before)-size]
}

func (b *buffer) left() {
	_, size := utf8.DecodeLastRuneInString(b.before)
	at := len(b.before) - size
	b.before, b.after = b.before[:at], b.before[at:]+b.after
}

func (b *buffer) right() {
	_, size := utf8.DecodeRuneInString(b.after)
	b.before, b.after = b.before+b.after[:size], b.after[size:]
}

// shown is the text with a suggestion at the cursor, which an editor would show in grey.
func (b *buffer) shown(suggestion string) string {
	return b.before + "«" + suggestion + "»" + b.after
}
