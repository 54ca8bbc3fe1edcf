package mlxstdio

import (
	"encoding/json"
	"slices"
)

// What every engine has (protocol.md, 5.13); a request for anything else may be answered with 1006.
var (
	requiredMethods = []string{MethodInitialize, MethodPing, MethodShutdown, MethodRPCDiscover,
		MethodEngineStatus, MethodModelsList, MethodModelsLoad, MethodModelsUnload, MethodGenerate}
	requiredParams = []string{"_meta", "model", "prompt", "maxTokens", "temperature", "seed", "stop",
		"ignoreEos", "stream", "streamToken", "timeoutMs", "priority"}
)

func mayLack(request map[string]any) bool {
	method, _ := request["method"].(string)
	if method != MethodGenerate {
		return !slices.Contains(requiredMethods, method)
	}
	params, _ := request["params"].(map[string]any)
	for name := range params {
		if !slices.Contains(requiredParams, name) {
			return true
		}
	}
	return false
}

// isLack tells whether a message is `unsupported`, for a request that not every engine can serve.
func (r *replay) isLack(message any) bool {
	object, _ := message.(map[string]any)
	told, _ := object["error"].(map[string]any)
	return told["code"] == json.Number("1006") && r.lackable[key(object["id"])]
}
