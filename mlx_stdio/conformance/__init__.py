"""Recorded sessions that any implementation of the protocol must reproduce, and what replays them.

Nothing here knows the engine: it is spawned as a command and spoken to over its pipes. The format
of the transcripts is documented in `docs/conformance.md`.
"""
