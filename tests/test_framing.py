"""Newline framing: the same messages however the bytes were cut, in bounded memory."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_stdio.wire.framing import LineFramer, Oversize

Frames = list[bytes | Oversize]
LIMIT = 64


def frames(*pieces: bytes, limit: int = LIMIT) -> Frames:
    framer = LineFramer(limit)
    out: Frames = []
    for piece in pieces:
        out += framer.feed(piece)
    return out + list(framer.close())


def cut(data: bytes, borders: list[int]) -> list[bytes]:
    edges = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def test_each_line_is_a_message() -> None:
    assert frames(b'{"a":1}\n{"b":2}\n') == [b'{"a":1}', b'{"b":2}']


def test_a_carriage_return_before_the_newline_is_dropped() -> None:
    assert frames(b"one\r\ntwo\n") == [b"one", b"two"]
    assert frames(b"one\r", b"\ntwo\r", b"\n") == [b"one", b"two"]


def test_a_carriage_return_inside_a_message_stays() -> None:
    assert frames(b"a\rb\n\rc\n") == [b"a\rb", b"\rc"]


def test_only_one_carriage_return_is_dropped() -> None:
    assert frames(b"a\r\r\n") == [b"a\r"]


@pytest.mark.parametrize("blank", [b"\n", b"\r\n", b"  \n", b"\t \r\n", b"\n\n\r\n\n"])
def test_blank_lines_are_passed_over(blank: bytes) -> None:
    assert frames(blank + b"x\n" + blank) == [b"x"]


@pytest.mark.parametrize("line", [b"\x0b", b"\x0c", b" \x1c", "\xa0".encode()])
def test_blanks_are_those_of_json(line: bytes) -> None:
    assert frames(line + b"\n") == [line]


def test_only_the_byte_newline_ends_a_message() -> None:
    text = "a\u2028b\u2029c\u0085d\x0be\x0cf"
    assert frames(f"{text}\n".encode()) == [text.encode()]


def test_the_last_line_needs_no_newline() -> None:
    assert frames(b"one\ntwo") == [b"one", b"two"]
    assert frames(b"one\ntwo\r") == [b"one", b"two"]
    assert frames(b"one\n") == [b"one"]
    assert frames() == []


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_message_of_exactly_the_limit_is_taken(end: bytes) -> None:
    assert frames(b"x" * LIMIT + end) == [b"x" * LIMIT]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
@pytest.mark.parametrize("over", [1, 2, 3, 1000])
def test_a_message_over_the_limit_is_reported_once(over: int, end: bytes) -> None:
    whole = b"x" * (LIMIT + over) + end
    assert frames(whole) == [Oversize(LIMIT)]
    assert frames(*(whole[i : i + 1] for i in range(len(whole)))) == [Oversize(LIMIT)]


def test_oversize_is_reported_before_its_end_came() -> None:
    framer = LineFramer(LIMIT)
    assert list(framer.feed(b"x" * (LIMIT + 2))) == [Oversize(LIMIT)]
    assert list(framer.feed(b"y" * 500)) == []
    assert list(framer.feed(b"z\nnext\n")) == [b"next"]


def test_every_oversize_message_is_reported() -> None:
    big = b"x" * 200 + b"\n"
    assert frames(big + b"a\n" + big + big + b"b\n") == [
        Oversize(LIMIT),
        b"a",
        Oversize(LIMIT),
        Oversize(LIMIT),
        b"b",
    ]


def test_skipping_holds_no_more_than_the_limit() -> None:
    framer = LineFramer(1 << 16)
    chunk = b"x" * (1 << 16)
    tracemalloc.start()
    try:
        reports = [frame for _ in range(512) for frame in framer.feed(chunk)]  # 32 MiB
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert reports == [Oversize(1 << 16)]
    assert peak < 1 << 20
    assert list(framer.feed(b"\nnext\n")) == [b"next"]


def test_small_pieces_cost_their_bytes_only() -> None:
    framer = LineFramer(1 << 20)
    pieces = [b"%02d" % (i % 100) for i in range(200)]
    tracemalloc.start()
    try:
        for _ in range(500):
            for piece in pieces:
                # A fresh object each time, as a read gives.
                assert not list(framer.feed(bytes(bytearray(piece))))
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 4 * 200_000
    assert list(framer.close()) == [b"".join(pieces) * 500]


# Short lines around the limit, with every kind of end.
STREAM = st.lists(
    st.tuples(
        st.one_of(
            st.binary(max_size=20),
            st.integers(LIMIT - 2, LIMIT + 3).map(lambda n: b"x" * n),
            st.sampled_from([b"", b" ", b"\r", "é🎉\u2028".encode()]),
        ),
        st.sampled_from([b"\n", b"\r\n"]),
    ),
    max_size=12,
).map(lambda lines: b"".join(line + end for line, end in lines))
BORDERS = st.lists(st.integers(0, 10_000), max_size=30)


@settings(deadline=None)
@given(data=STREAM, tail=st.binary(max_size=LIMIT + 3), borders=BORDERS)
def test_any_cut_gives_the_same_messages(data: bytes, tail: bytes, borders: list[int]) -> None:
    data += tail
    assert frames(*cut(data, borders)) == frames(data)


@settings(deadline=None)
@given(data=STREAM, borders=BORDERS)
def test_messages_are_those_of_a_plain_split(data: bytes, borders: list[int]) -> None:
    lines = [line.removesuffix(b"\r") for line in data.split(b"\n")]
    taken = [
        Oversize(LIMIT) if len(line) > LIMIT else line
        for line in lines
        if line.strip() or len(line) > LIMIT
    ]
    assert frames(*cut(data, borders)) == taken
