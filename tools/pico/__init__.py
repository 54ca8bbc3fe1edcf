"""Everything that makes the embedded default model *pico*: data, tokenizer, training, measures."""
