package mlxstdio

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// What not every engine has (protocol.md, 5.13) may be answered with 1006; and the params of `generate`
// that work in all of them.
var (
	optionalMethods = []string{MethodChat, MethodInfill, MethodEmbed, MethodTokenize, MethodDetokenize,
		MethodApplyTemplate}
	requiredParams = []string{"_meta", "model", "prompt", "maxTokens", "temperature", "seed", "stop",
		"ignoreEos", "stream", "streamToken", "timeoutMs", "priority"}
)

// beforeLack are the codes of what an engine says rather than that it lacks what a request asks for
// (11.8); none where it asks for nothing that version 1 has, but not every engine.
func beforeLack(request map[string]any) []string {
	wrong := []string{"-32700", "-32600", "-32601", "-32602"}
	method, _ := request["method"].(string)
	params, _ := request["params"].(map[string]any)
	if method != MethodGenerate {
		if slices.Contains(optionalMethods, method) {
			return wrong
		}
		return nil
	}
	var known []string
	for _, field := range reflect.VisibleFields(reflect.TypeFor[GenerateParams]()) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		known = append(known, name)
	}
	lacks := false
	for name := range params {
		if !slices.Contains(known, name) {
			return nil // it is wrong, which every engine has to say
		}
		lacks = lacks || !slices.Contains(requiredParams, name)
	}
	if !lacks {
		return nil
	}
	return append(wrong, "1009")
}

// isLack tells whether a message is `unsupported`, for a request that not every engine can serve, where
// no error is due that goes before it.
func (r *replay) isLack(message any, due []any) bool {
	object, _ := message.(map[string]any)
	told, _ := object["error"].(map[string]any)
	before := r.beforeLack[key(object["id"])]
	for _, one := range due {
		pattern, _ := one.(map[string]any)
		wanted, _ := pattern["error"].(map[string]any)
		code, _ := wanted["code"].(json.Number)
		if reflect.DeepEqual(pattern["id"], object["id"]) && slices.Contains(before, code.String()) {
			return false
		}
	}
	return told["code"] == json.Number("1006") && before != nil
}
