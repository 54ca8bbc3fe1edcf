package mlxstdio

// Ptr points to a value, for members that may be absent: Temperature: Ptr(0.7).
func Ptr[T any](value T) *T { return &value }

// Prompt is a prompt of text.
func Prompt(text string) StringOrIntegers { return NewStringOrIntegers(text) }

// PromptTokens is a prompt of token ids, which are used as they are.
func PromptTokens(tokens []int64) StringOrIntegers { return NewStringOrIntegers(tokens) }

// System is a message that tells the model how to behave.
func System(text string) ChatMessage { return said("system", text) }

// User is a message of the user.
func User(text string) ChatMessage { return said("user", text) }

// Assistant is an earlier answer of the model.
func Assistant(text string) ChatMessage { return said("assistant", text) }

func said(role, text string) ChatMessage {
	return ChatMessage{Role: role, Content: NewStringOrTextParts(text)}
}
