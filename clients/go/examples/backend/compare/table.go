package main

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"
)

// table is the generated part of the README.
func table(stdio, cgo *contender) string {
	var page strings.Builder
	same, texts := sameTexts(stdio, cgo)
	fmt.Fprintf(&page, "- Machine: %s, %d cores, %s; load average at the end %s, which is to say how busy others kept it\n", runtime.GOOS+"/"+runtime.GOARCH,
		runtime.NumCPU(), runtime.Version(), loadAverage())
	fmt.Fprintf(&page, "- %d lives and %d crashes of each, in turn, %s; model: pico, computed in float32 by both\n",
		len(stdio.lives), len(stdio.crash), time.Now().Format(time.DateOnly))
	fmt.Fprintf(&page, "- %d of %d texts were the same, but for the space before the first word, which `mlx_lm` drops\n\n",
		same, texts)
	page.WriteString("| point | stdio | cgo | stdio to cgo |\n|---|---|---|---|\n")
	row := func(point, left, right, ratio string) {
		fmt.Fprintf(&page, "| %s | %s | %s | %s |\n", point, left, right, ratio)
	}
	row("a null pointer in the model's code: the host", stdio.crash[0].fate, cgo.crash[0].fate, "")
	row("and the call that met it, ms", crashes(stdio, func(c *crash) float64 { return c.failed }), "-", "")
	row("and the next call, to another model, ms", crashes(stdio, func(c *crash) float64 { return c.next }), "-", "")
	row("the next call after a SIGSEGV between two calls, ms",
		crashes(stdio, func(c *crash) float64 { return c.killed }), "-", "")
	left, right := stdio.built, cgo.built
	row("build without a C compiler", left.alone, right.alone, "")
	row("build for macOS on "+runtime.GOOS, left.foreign, right.foreign, "")
	row("first build, empty cache, processor time, s", seconds(left.cold), seconds(right.cold),
		fmt.Sprintf("%.2f", left.cold.Seconds()/right.cold.Seconds()))
	row("binary, MB", megabytes(left.size), megabytes(right.size),
		fmt.Sprintf("%.2f", float64(left.size)/float64(right.size)))
	row("libraries that the binary loads", names(left.libraries), names(right.libraries), "")
	for _, each := range []struct {
		point  string
		figure func(*life) float64
	}{
		{"start of the host to the first token, ms", func(l *life) float64 { return l.firstToken }},
		{"of which Load, ms", func(l *life) float64 { return l.load }},
		{"processor time of start, token and end, ms", func(l *life) float64 { return l.processor }},
		{"idle memory, the host's process, MiB", func(l *life) float64 { return l.host }},
		{"idle memory, the engine's, MiB", func(l *life) float64 { return l.engine }},
		{"idle memory, sum, MiB", func(l *life) float64 { return l.host + l.engine }},
		{"memory after the last Free, sum, MiB", func(l *life) float64 { return l.hostAfter + l.engineAfter }},
		{"a call that does nothing, ms", func(l *life) float64 { return l.wire }},
		{"Generate of 1 token, ms", func(l *life) float64 { return l.one }},
		{"Generate of 64 tokens, ms", func(l *life) float64 { return l.many }},
		{"4 times 64 tokens at once, ms", func(l *life) float64 { return l.atOnce }},
	} {
		row(each.point, lives(stdio, each.figure), lives(cgo, each.figure), ratio(stdio, cgo, each.figure))
	}
	return page.String()
}

func sameTexts(stdio, cgo *contender) (same, all int) {
	for i, one := range stdio.lives {
		for j, text := range one.texts {
			all++
			if strings.TrimSpace(text) == strings.TrimSpace(cgo.lives[i].texts[j]) {
				same++
			}
		}
	}
	return same, all
}

func lives(c *contender, figure func(*life) float64) string {
	var values []float64
	for _, one := range c.lives {
		values = append(values, figure(one))
	}
	return spread(values)
}

func crashes(c *contender, figure func(*crash) float64) string {
	var values []float64
	for _, one := range c.crash {
		values = append(values, figure(one))
	}
	return spread(values)
}

// ratio is the median of the ratios of lives that came one after the other: what else the machine did
// meets both.
func ratio(stdio, cgo *contender, figure func(*life) float64) string {
	var values []float64
	for i, one := range stdio.lives {
		if below := figure(cgo.lives[i]); below > 0 {
			values = append(values, figure(one)/below)
		}
	}
	if len(values) == 0 {
		return ""
	}
	return short(median(values))
}

// spread is the median, with the least and the most.
func spread(values []float64) string {
	if slices.Max(values) == 0 {
		return "-"
	}
	return fmt.Sprintf("%s (%s-%s)", short(median(values)), short(slices.Min(values)), short(slices.Max(values)))
}

// short has three digits that mean something.
func short(value float64) string {
	switch {
	case value >= 100:
		return fmt.Sprintf("%.0f", value)
	case value >= 10:
		return fmt.Sprintf("%.1f", value)
	case value >= 1:
		return fmt.Sprintf("%.2f", value)
	}
	return fmt.Sprintf("%.3f", value)
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f", d.Seconds()) }

func megabytes(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/1e6) }

func names(libraries []string) string {
	if len(libraries) == 0 {
		return "none"
	}
	return "`" + strings.Join(libraries, "`, `") + "`"
}

func loadAverage() string {
	data, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Fields(string(data))[0]
}
