package mlxstdio

import (
	"bytes"
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"
)

// Every JSON object of the protocol must survive Go's types: what is decoded, without a member that
// the types do not know, and encoded again is the same object.

func fresh[T any]() any { return new(T) }

var paramsOf = map[string]func() any{
	MethodInitialize:    fresh[InitializeParams],
	MethodModelsLoad:    fresh[LoadParams],
	MethodModelsUnload:  fresh[UnloadParams],
	MethodGenerate:      fresh[GenerateParams],
	MethodChat:          fresh[ChatParams],
	MethodInfill:        fresh[InfillParams],
	MethodEmbed:         fresh[EmbedParams],
	MethodTokenize:      fresh[TokenizeParams],
	MethodDetokenize:    fresh[DetokenizeParams],
	MethodApplyTemplate: fresh[ApplyTemplateParams],
	MethodCancelRequest: fresh[CancelParams],
}

var resultOf = map[string]func() any{
	MethodInitialize:    fresh[InitializeResult],
	MethodPing:          fresh[Empty],
	MethodEngineStatus:  fresh[StatusResult],
	MethodModelsList:    fresh[ModelListResult],
	MethodModelsLoad:    fresh[LoadResult],
	MethodModelsUnload:  fresh[UnloadResult],
	MethodGenerate:      fresh[GenerateResult],
	MethodChat:          fresh[ChatResult],
	MethodInfill:        fresh[InfillResult],
	MethodEmbed:         fresh[EmbedResult],
	MethodTokenize:      fresh[TokenizeResult],
	MethodDetokenize:    fresh[DetokenizeResult],
	MethodApplyTemplate: fresh[ApplyTemplateResult],
}

var noteOf = map[string]func() any{
	NotificationStreamDelta:   fresh[StreamDelta],
	NotificationProgress:      fresh[Progress],
	NotificationModelsChanged: fresh[ModelChanged],
	NotificationEngineFatal:   fresh[Fatal],
}

// roundTrip decodes and encodes, and compares.
func roundTrip(t *testing.T, into any, data []byte) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		t.Errorf("%T: %v: %s", into, err, data)
		return
	}
	again, err := json.Marshal(into)
	if err != nil {
		t.Errorf("%T: %v", into, err)
		return
	}
	var before, after any
	if json.Unmarshal(data, &before) != nil || json.Unmarshal(again, &after) != nil {
		t.Fatalf("not JSON: %s, %s", data, again)
	}
	if !reflect.DeepEqual(before, after) {
		t.Errorf("%T:\n got %s\nfrom %s", into, again, data)
	}
}

// document is what these tests read of protocol/openrpc.json.
type document struct {
	Methods []struct {
		Name   string
		Params []struct{ Name string }
	}
}

func readDocument(t *testing.T) document {
	t.Helper()
	data, err := os.ReadFile("../../protocol/openrpc.json")
	if err != nil {
		t.Fatal(err)
	}
	var found document
	if err := json.Unmarshal(data, &found); err != nil {
		t.Fatal(err)
	}
	return found
}

func TestEveryParameterHasAField(t *testing.T) {
	for _, method := range readDocument(t).Methods {
		create, known := paramsOf[method.Name]
		if !known && len(method.Params) > 1 { // `_meta` is everywhere.
			t.Errorf("no type for the parameters of %s", method.Name)
		}
		for _, param := range method.Params {
			if !known {
				continue
			}
			if !tags(reflect.TypeOf(create()).Elem())[param.Name] {
				t.Errorf("%s has no field for %q", method.Name, param.Name)
			}
		}
	}
}

// tags are the JSON names of a structure's fields, with those of embedded ones.
func tags(kind reflect.Type) map[string]bool {
	found := map[string]bool{}
	for _, field := range reflect.VisibleFields(kind) {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		found[name] = true
	}
	return found
}

// The page has an example of every method and every notification; `>` is what a host writes. Where
// it shortens one, the line is not JSON and says nothing here.
func TestExamplesRoundTrip(t *testing.T) {
	page, err := os.ReadFile("../../protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	asked, seen := map[int]string{}, map[string]bool{}
	for line := range strings.Lines(string(page)) {
		var message struct {
			ID             int
			Method         string
			Params, Result json.RawMessage
		}
		text, isMessage := strings.CutPrefix(strings.TrimPrefix(line, "> "), "< ")
		isMessage = isMessage || strings.HasPrefix(line, "> ")
		if !isMessage || json.Unmarshal([]byte(text), &message) != nil {
			continue
		}
		create, data := resultOf[asked[message.ID]], message.Result
		if message.Method != "" {
			asked[message.ID] = message.Method
			seen[message.Method] = true
			create, data = paramsOf[message.Method], message.Params
			if line[0] == '<' {
				create = noteOf[message.Method]
			}
		}
		if create != nil && data != nil {
			roundTrip(t, create(), data)
		}
	}
	for _, method := range readDocument(t).Methods {
		if !seen[method.Name] {
			t.Errorf("no example of %s", method.Name)
		}
	}
	for name := range noteOf {
		if !seen[name] {
			t.Errorf("no example of %s", name)
		}
	}
}

func TestParametersRoundTrip(t *testing.T) {
	for _, row := range [][2]string{
		{MethodInitialize, `{"protocolVersion":1,"clientInfo":{"name":"a","more":[1,null]}}`},
		{MethodGenerate, `{"prompt":"x","temperature":0,"topK":0,"stream":false,"logprobs":0}`},
		{MethodGenerate, `{"prompt":[1,2],"stop":[],"stopTokens":[0],"streamToken":"","seed":0}`},
		{MethodGenerate, `{"prompt":"","streamToken":7,"logitBias":{"12":-1.5},"_meta":{"a":{}}}`},
		{MethodGenerate, `{"prompt":"x","model":"pico","maxTokens":5,"topP":0.5,"minP":0,
			"xtcProbability":0.1,"xtcThreshold":0,"repetitionPenalty":1.1,"repetitionContext":3,
			"presencePenalty":-1,"frequencyPenalty":0,"ignoreEos":true,"priority":"background",
			"timeoutMs":9,"responseFormat":{"type":"jsonSchema","schema":{"type":"object"}},
			"adapter":"a","draftModel":"b","numDraftTokens":2,"kvBits":4,"maxKvSize":64,
			"cachePrompt":false}`},
		{MethodChat, `{"messages":[{"role":"user","content":"a","name":"b"},
			{"role":"user","content":[{"type":"text","text":""}]},
			{"role":"assistant","reasoning":"","toolCalls":[{"id":"1"}]},
			{"role":"tool","toolCallId":"1","content":""}],"tools":[{}],"toolChoice":"auto",
			"enableThinking":false,"templateArgs":{}}`},
		{MethodChat, `{"messages":[{"role":"user"}],"toolChoice":{"name":"a"}}`},
		{MethodInfill, `{"prefix":"","suffix":"b","maxTokens":1}`},
		{MethodEmbed, `{"input":["a"],"model":"m","pooling":"mean","normalize":true}`},
		{MethodModelsLoad, `{"model":"a","pin":false,"keepAliveSeconds":0,"streamToken":1}`},
		{MethodModelsUnload, `{"model":"a","timeoutMs":1}`},
		{MethodTokenize, `{"text":"","model":"a","addSpecialTokens":false}`},
		{MethodDetokenize, `{"tokens":[],"skipSpecialTokens":true}`},
		{MethodApplyTemplate, `{"messages":[],"addGenerationPrompt":false,"tools":[]}`},
		{MethodCancelRequest, `{"id":0}`},
		{MethodCancelRequest, `{"id":""}`},
		{MethodCancelRequest, `{"id":9007199254740993}`},
	} {
		roundTrip(t, paramsOf[row[0]](), []byte(row[1]))
	}
}

// What an engine seldom says.
func TestRareResultsRoundTrip(t *testing.T) {
	roundTrip(t, &Timings{}, []byte(`{"queueMs":0,"loadMs":0,"prefillMs":1.5,"totalMs":1.5,
		"firstTokenMs":null,"tokensPerSecond":null}`))
	roundTrip(t, &EmbedResult{}, []byte(`{"embeddings":[[0.5],[]],"usage":{"promptTokens":0}}`))
	roundTrip(t, &ModelState{}, []byte(`{"id":"a","state":"available","path":"","bytes":0,
		"contextLength":0,"vocabularySize":0,"pinned":false,"running":0,"lastUsedSecondsAgo":0,
		"keepAliveSeconds":0,"tokenizer":"transformers"}`))
	roundTrip(t, &StreamDelta{}, []byte(`{"requestId":"","seq":0,"text":"","channel":"content",
		"streamToken":0,"tokens":[],"logprobs":[]}`))
	roundTrip(t, &Fatal{}, []byte(`{"kind":"engineFault","message":""}`))
}

func TestUnions(t *testing.T) {
	var id StringOrInteger
	if err := json.Unmarshal([]byte(`9007199254740993`), &id); err != nil {
		t.Fatal(err)
	}
	if id != NewStringOrInteger(int64(9007199254740993)) || id.Value() != int64(9007199254740993) {
		t.Errorf("got %v", id)
	}
	for _, wrong := range []string{`1.5`, `true`, `[1]`, `{}`, `[`} {
		if err := json.Unmarshal([]byte(wrong), &id); err == nil {
			t.Errorf("%s is no id", wrong)
		}
	}
	if err := json.Unmarshal([]byte(`{}`), new(StringOrIntegers)); err == nil {
		t.Error("an object is no prompt")
	}
	asked := GenerateParams{Prompt: NewStringOrIntegers("x")}
	asked.MaxTokens = 5
	data, err := json.Marshal(asked)
	if err != nil || string(data) != `{"maxTokens":5,"prompt":"x"}` {
		t.Errorf("got %s, %v", data, err)
	}
}

func TestCodes(t *testing.T) {
	if Codes[KindCancelled] != CodeCancelled || CodeCancelled != -32800 || len(Codes) < 15 {
		t.Errorf("codes: %v", Codes)
	}
}
