package mlxstdio

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"reflect"
	"regexp"
	"strings"
)

// What a transcript's patterns know: the names bound so far, and each request's streamed text.
type bindings struct {
	names  map[string]any
	deltas map[string]string
}

// The value of a member that is not there.
type absent struct{}

// match is nil where the value fits; then its names are bound.
func (b *bindings) match(pattern, value any) error {
	tried := bindings{maps.Clone(b.names), b.deltas}
	if err := tried.fits(pattern, value, "$"); err != nil {
		return err
	}
	b.names = tried.names
	return nil
}

// fill puts what was bound in the place of each $ref of a message.
func (b *bindings) fill(template any) any {
	switch template := template.(type) {
	case map[string]any:
		if name, ok := template["$ref"].(string); ok {
			return b.names[name]
		}
		filled := map[string]any{}
		for name, part := range template {
			filled[name] = b.fill(part)
		}
		return filled
	case []any:
		filled := []any{}
		for _, part := range template {
			filled = append(filled, b.fill(part))
		}
		return filled
	}
	return template
}

func (b *bindings) fits(pattern, value any, path string) error {
	switch pattern := pattern.(type) {
	case map[string]any:
		for name, argument := range pattern {
			if strings.HasPrefix(name, "$") && name != "$rest" {
				return b.matcher(name, argument, value, path)
			}
		}
		return b.object(pattern, value, path)
	case []any:
		values, ok := value.([]any)
		if !ok || len(values) != len(pattern) {
			return wrong(path, fmt.Sprintf("an array of %d", len(pattern)), value)
		}
		for at := range pattern {
			if err := b.fits(pattern[at], values[at], fmt.Sprintf("%s[%d]", path, at)); err != nil {
				return err
			}
		}
		return nil
	}
	if !same(pattern, value) {
		return wrong(path, pattern, value)
	}
	return nil
}

func (b *bindings) object(pattern map[string]any, value any, path string) error {
	members, ok := value.(map[string]any)
	if !ok {
		return wrong(path, "an object", value)
	}
	for name, part := range pattern {
		if name == "$rest" {
			continue
		}
		var member any = absent{}
		if found, ok := members[name]; ok {
			member = found
		}
		if err := b.fits(part, member, path+"."+name); err != nil {
			return err
		}
	}
	for name := range members {
		if _, ok := pattern[name]; !ok && pattern["$rest"] != true {
			return fmt.Errorf("%s: a member that is not expected, %q", path, name)
		}
	}
	return nil
}

func (b *bindings) matcher(name string, argument, value any, path string) error {
	_, missing := value.(absent)
	values, isArray := value.([]any)
	switch name {
	case "$any":
		if missing {
			return wrong(path, "anything", value)
		}
	case "$absent":
		if !missing {
			return wrong(path, "nothing", value)
		}
	case "$optional":
		if !missing {
			return b.fits(argument, value, path)
		}
	case "$type":
		if !isOf(argument.(string), value) {
			return wrong(path, argument, value)
		}
	case "$regex":
		text, ok := value.(string)
		if !ok || !regexp.MustCompile(argument.(string)).MatchString(text) {
			return wrong(path, argument, value)
		}
	case "$int", "$number":
		kind := map[string]string{"$int": "integer", "$number": "number"}[name]
		if !isOf(kind, value) || !within(argument.(map[string]any), value.(json.Number)) {
			return wrong(path, argument, value)
		}
	case "$bind":
		if missing {
			return wrong(path, "anything", value)
		}
		b.names[argument.(string)] = value
	case "$ref":
		if !same(b.names[argument.(string)], value) {
			return wrong(path, b.names[argument.(string)], value)
		}
	case "$deltas":
		if value != b.deltas[key(argument)] {
			return wrong(path, b.deltas[key(argument)], value)
		}
	case "$all":
		for _, part := range argument.([]any) {
			if err := b.fits(part, value, path); err != nil {
				return err
			}
		}
	case "$oneOf":
		for _, part := range argument.([]any) {
			if b.match(part, value) == nil {
				return nil
			}
		}
		return wrong(path, argument, value)
	case "$each":
		for at, part := range values {
			if err := b.fits(argument, part, fmt.Sprintf("%s[%d]", path, at)); err != nil {
				return err
			}
		}
		if !isArray {
			return wrong(path, "an array", value)
		}
	case "$begins":
		patterns := argument.([]any)
		return b.fits(patterns, values[:min(len(values), len(patterns))], path)
	case "$contains", "$anyOrder":
		return b.set(name == "$anyOrder", argument.([]any), values, path)
	default:
		return fmt.Errorf("%s: no matcher is named %s", path, name)
	}
	return nil
}

func (b *bindings) set(whole bool, patterns, values []any, path string) error {
	rest := append([]any{}, values...)
	for _, pattern := range patterns {
		found := -1
		for at, value := range rest {
			if b.match(pattern, value) == nil {
				found = at
				break
			}
		}
		if found < 0 {
			return wrong(path, pattern, values)
		}
		if whole {
			rest = append(rest[:found], rest[found+1:]...)
		}
	}
	if whole && len(rest) > 0 {
		return wrong(path, fmt.Sprintf("an array of %d", len(patterns)), values)
	}
	return nil
}

func isOf(kind string, value any) bool {
	switch value := value.(type) {
	case string:
		return kind == "string"
	case bool:
		return kind == "boolean"
	case nil:
		return kind == "null"
	case map[string]any:
		return kind == "object"
	case []any:
		return kind == "array"
	case json.Number:
		return kind == "number" || kind == "integer" && !strings.ContainsAny(value.String(), ".eE")
	}
	return false
}

func within(bounds map[string]any, value json.Number) bool {
	number, _ := value.Float64()
	low, hasLow := bounds["min"].(json.Number)
	high, hasHigh := bounds["max"].(json.Number)
	least, _ := low.Float64()
	most, _ := high.Float64()
	return (!hasLow || number >= least) && (!hasHigh || number <= most)
}

// same compares JSON values; 1 and 1.0 are one number, and integers of 64 bits keep all their digits.
func same(one, other any) bool {
	a, isA := one.(json.Number)
	b, isB := other.(json.Number)
	if !isA || !isB {
		return reflect.DeepEqual(one, other)
	}
	x, okX := new(big.Rat).SetString(a.String())
	y, okY := new(big.Rat).SetString(b.String())
	return okX && okY && x.Cmp(y) == 0
}

func wrong(path string, wanted, value any) error {
	if _, missing := value.(absent); missing {
		value = "nothing"
	}
	return fmt.Errorf("%s: expected %v; there is %.300v", path, wanted, value)
}
