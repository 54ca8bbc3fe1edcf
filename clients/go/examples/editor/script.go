package main

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
)

// step is a line of a script.
type step struct {
	verb  string
	text  string        // of type
	count int           // of a key
	span  time.Duration // of pause
}

// readSteps reads a script as it comes, so that a person or a program may also write it as it goes
// on. It ends the channel at the end, or at a line that it cannot read, with an error.
//
//	# a comment
//	type TEXT        a keystroke for each character; \t, \n and \\ as in Go, \s a blank at the end
//	enter [N]        so many keystrokes; also: backspace, left, right
//	wait             until the suggestion is whole, and print the text with it
//	show             print the text with what there is of the suggestion
//	accept           take the suggestion that was printed last into the text
//	pause DURATION   type nothing for a while: 150ms, 2s
func readSteps(in io.Reader, steps chan<- step) error {
	defer close(steps)
	reader := bufio.NewReader(in)
	for line := 1; ; line++ {
		text, err := reader.ReadString('\n')
		text = strings.TrimSpace(text)
		if text != "" && !strings.HasPrefix(text, "#") {
			step, err := parseStep(text)
			if err != nil {
				return fmt.Errorf("line %d: %w", line, err)
			}
			steps <- step
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

var escapes = strings.NewReplacer(`\\`, `\`, `\n`, "\n", `\t`, "\t", `\s`, " ")

func parseStep(line string) (step, error) {
	verb, rest, _ := strings.Cut(line, " ")
	made := step{verb: verb, count: 1}
	var err error
	switch verb {
	case "type":
		made.text = escapes.Replace(rest)
	case "enter", "backspace", "left", "right":
		if rest != "" {
			made.count, err = strconv.Atoi(rest)
		}
	case "pause":
		made.span, err = time.ParseDuration(rest)
	case "wait", "show", "accept":
		if rest != "" {
			err = fmt.Errorf("%s has nothing after it", verb)
		}
	default:
		err = fmt.Errorf("%q is no step", verb)
	}
	return made, err
}
