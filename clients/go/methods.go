package mlxstdio

import (
	"context"
	"encoding/json"
)

// Generate continues a prompt, and waits for the whole text. The context's deadline travels to the
// engine; so it does with Chat, Infill, Load and Unload, unless the params have a TimeoutMs.
func (c *Client) Generate(ctx context.Context, params *GenerateParams, options ...CallOption) (*GenerateResult, error) {
	return generated[GenerateResult](ctx, c, params, options)
}

// Chat answers a conversation, and waits for the whole answer.
func (c *Client) Chat(ctx context.Context, params *ChatParams, options ...CallOption) (*ChatResult, error) {
	return generated[ChatResult](ctx, c, params, options)
}

// Infill fills the gap between two texts, and waits for the whole text.
func (c *Client) Infill(ctx context.Context, params *InfillParams, options ...CallOption) (*InfillResult, error) {
	return generated[InfillResult](ctx, c, params, options)
}

// Do is Generate, Chat or Infill, whichever the request is for.
func (c *Client) Do(ctx context.Context, request GenerationRequest, options ...CallOption) (*Result, error) {
	result, err := generated[Result](ctx, c, request, options)
	if err == nil {
		result.settle()
	}
	return result, err
}

// Embed makes vectors of texts. An engine that cannot answers [KindUnsupported].
func (c *Client) Embed(ctx context.Context, params *EmbedParams, options ...CallOption) (*EmbedResult, error) {
	return called[EmbedResult](ctx, c, MethodEmbed, params, options)
}

// Load makes a model resident; with [OnProgress] it tells how many bytes have been read.
func (c *Client) Load(ctx context.Context, params *LoadParams, options ...CallOption) (*LoadResult, error) {
	x := c.exchange(ctx, MethodModelsLoad, orZero(params), options)
	x.timed = orZero(params).TimeoutMs == 0
	return finished[LoadResult](x)
}

// Unload gives a model's memory back, once the requests that came before have finished.
func (c *Client) Unload(ctx context.Context, params *UnloadParams, options ...CallOption) (*UnloadResult, error) {
	x := c.exchange(ctx, MethodModelsUnload, orZero(params), options)
	x.timed = orZero(params).TimeoutMs == 0
	return finished[UnloadResult](x)
}

// Models lists the models that are resident, then those that can be loaded by a name.
func (c *Client) Models(ctx context.Context) ([]ModelState, error) {
	result, err := called[ModelListResult](ctx, c, MethodModelsList, nil, nil)
	if err != nil {
		return nil, err
	}
	return result.Models, nil
}

// Status tells device, memory, requests and counters, whatever the engine is doing.
func (c *Client) Status(ctx context.Context) (*StatusResult, error) {
	return called[StatusResult](ctx, c, MethodEngineStatus, nil, nil)
}

// Ping is answered at once, whatever the engine is doing.
func (c *Client) Ping(ctx context.Context) error {
	return c.Call(ctx, MethodPing, nil, nil)
}

// Tokenize gives the token ids of a text.
func (c *Client) Tokenize(ctx context.Context, params *TokenizeParams) (*TokenizeResult, error) {
	return called[TokenizeResult](ctx, c, MethodTokenize, params, nil)
}

// Detokenize gives the text of token ids.
func (c *Client) Detokenize(ctx context.Context, params *DetokenizeParams) (*DetokenizeResult, error) {
	return called[DetokenizeResult](ctx, c, MethodDetokenize, params, nil)
}

// ApplyTemplate gives what [Client.Chat] would send to the model.
func (c *Client) ApplyTemplate(ctx context.Context, params *ApplyTemplateParams) (*ApplyTemplateResult, error) {
	return called[ApplyTemplateResult](ctx, c, MethodApplyTemplate, params, nil)
}

// Discover gives the engine's OpenRPC document.
func (c *Client) Discover(ctx context.Context) (json.RawMessage, error) {
	var document json.RawMessage
	err := c.Call(ctx, MethodRPCDiscover, nil, &document)
	return document, err
}

// Initialize tells the engine which version this client speaks. [Start] has done it; after
// [NewClient] it is the host's to do, or to leave.
func (c *Client) Initialize(ctx context.Context) (*InitializeResult, error) {
	var result *InitializeResult
	conn, err := c.connection(ctx, nil, nil)
	if err == nil {
		result, err = c.introduce(ctx, conn)
	}
	if err != nil {
		return nil, explain(MethodInitialize, err)
	}
	return result, nil
}

// Call is the way out: any method, with params that become JSON (an object, or nil) and a result
// that is decoded into what into points to, unless that is nil.
func (c *Client) Call(ctx context.Context, method string, params, into any, options ...CallOption) error {
	x := c.exchange(ctx, method, params, options)
	if err := x.start(); err != nil {
		return err
	}
	return x.wait(into)
}

// Notify sends a notification. It returns when it is on its way.
func (c *Client) Notify(ctx context.Context, method string, params any) error {
	data, err := encodedParams(params)
	if err != nil {
		return explain(method, err)
	}
	conn, err := c.connection(ctx, nil, nil)
	if err == nil {
		err = conn.notify(ctx, method, data)
	}
	if err != nil {
		return explain(method, err)
	}
	return nil
}

func (c *Client) exchange(ctx context.Context, method string, params any, options []CallOption) *exchange {
	x := &exchange{client: c, ctx: ctx, method: method, params: params, unwanted: make(chan struct{})}
	for _, option := range options {
		option(x)
	}
	return x
}

func (c *Client) generation(ctx context.Context, request GenerationRequest, stream bool, options []CallOption) *exchange {
	method, params, own := request.generation(stream)
	x := c.exchange(ctx, method, params, options)
	x.deltas, x.timed = stream, !own
	return x
}

func generated[R any](ctx context.Context, c *Client, request GenerationRequest, options []CallOption) (*R, error) {
	return finished[R](c.generation(ctx, request, false, options))
}

func called[R any](ctx context.Context, c *Client, method string, params any, options []CallOption) (*R, error) {
	return finished[R](c.exchange(ctx, method, params, options))
}

func finished[R any](x *exchange) (*R, error) {
	if err := x.start(); err != nil {
		return nil, err
	}
	result := new(R)
	if err := x.wait(result); err != nil {
		return nil, err
	}
	return result, nil
}

func (p *GenerateParams) generation(stream bool) (string, any, bool) {
	copied := *orZero(p)
	return MethodGenerate, &copied, copied.settle(stream)
}

func (p *ChatParams) generation(stream bool) (string, any, bool) {
	copied := *orZero(p)
	return MethodChat, &copied, copied.settle(stream)
}

func (p *InfillParams) generation(stream bool) (string, any, bool) {
	copied := *orZero(p)
	return MethodInfill, &copied, copied.settle(stream)
}

// settle tells whether the host has set a time of its own.
func (g *Generation) settle(stream bool) (ownTimeout bool) {
	g.Stream = &stream
	return g.TimeoutMs != 0
}

// orZero takes nil for params with nothing in them: the engine says what is missing.
func orZero[P any](params *P) *P {
	if params == nil {
		return new(P)
	}
	return params
}
