package mlxstdio

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// encoded is a value as JSON, without the escapes by which [json.Marshal] makes six bytes of each `<`,
// `>` and `&` for the sake of web pages: markup and code would be refused far below the engine's limit.
func encoded(value any) ([]byte, error) {
	var buffer bytes.Buffer
	encoder := json.NewEncoder(&buffer)
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(value)
	return bytes.TrimSuffix(buffer.Bytes(), []byte("\n")), err
}

// encodedParams are those of a message; nil is for none.
func encodedParams(params any) (json.RawMessage, error) {
	if params == nil {
		return nil, nil
	}
	data, err := encoded(params)
	if err != nil {
		return nil, fmt.Errorf("the params: %w", err)
	}
	return data, nil
}
