"""Development tools: the reference part of `protocol.md`, the training of `pico`."""
