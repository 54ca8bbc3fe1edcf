"""The beginning of a stream: blanks, a byte order mark, and silence until the framing is known."""

from __future__ import annotations

import select
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_stdio.wire.detect import AutoFramer, Framing, Piece, make_framer
from tests.host import COMMAND
from tests.test_headers import LIMIT, MARK, STREAM, call, cut_frames, framed


@settings(deadline=None)
@given(
    start=st.lists(
        st.sampled_from([b"", b" ", b"\r\n", b"\x0b", MARK, MARK[:1], b"C"]), max_size=4
    ),
    data=st.one_of(STREAM, st.lists(st.sampled_from([b"{}", b"\n", b"\r"])).map(b"".join)),
    borders=st.lists(st.integers(0, 20), max_size=20),
    given_framing=st.sampled_from([None, "newline", "content-length"]),
)
def test_any_cut_of_the_beginning_gives_the_same_messages(
    start: list[bytes], data: bytes, borders: list[int], given_framing: Framing | None
) -> None:
    data = b"".join(start) + data
    edges = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    assert begun(given_framing, *(data[a:b] for a, b in pairwise(edges))) == begun(
        given_framing, data
    )


def begun(framing: Framing | None, *chunks: bytes) -> list[Piece]:
    framer = make_framer(framing, LIMIT) if framing else AutoFramer(LIMIT, lambda _: None)
    out = [piece for chunk in chunks for piece in framer.feed(chunk)]
    return out + list(framer.close())


@pytest.mark.parametrize("framing", [None, "newline", "content-length"])
def test_one_byte_order_mark_before_all_is_passed_over(framing: Framing | None) -> None:
    frame = framed(b"{}") if framing == "content-length" else b"{}\n"
    assert begun(framing, MARK + frame) == [b"{}"]
    found = begun(framing, MARK + MARK + frame + frame)
    assert found[0] != b"{}"
    assert found[-1] == b"{}"


def test_nothing_is_written_before_the_framing_is_known() -> None:
    """A preload has something to tell before the host has written anything."""
    process = subprocess.Popen(
        [*COMMAND, "--preload"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        early, *_ = select.select([process.stdout], [], [], 2)
        assert not early
        process.stdin.write(call(1, "models/load", model="pico"))
        process.stdin.close()
        out = process.stdout.read()
    *notes, reply = cut_frames(out)
    assert "models/changed" in [note["method"] for note in notes]
    assert "result" in reply
