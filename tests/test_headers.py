"""Content-Length framing, and how the first bytes tell it from newline framing."""

from __future__ import annotations

import json
import subprocess
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_stdio.wire.detect import AutoFramer, Piece
from mlx_stdio.wire.framing import Malformed, Oversize
from mlx_stdio.wire.headers import HeaderFramer
from tests.host import COMMAND

LIMIT = 64
MARK = "\ufeff".encode()


def pieces(*data: bytes, limit: int = LIMIT) -> list[Piece]:
    framer = HeaderFramer(limit)
    out: list[Piece] = []
    for chunk in data:
        out += framer.feed(chunk)
    return out + list(framer.close())


def framed(body: bytes, *headers: bytes, end: bytes = b"\r\n") -> bytes:
    length = b"Content-Length: %d" % len(body)
    return end.join([length, *headers]) + end + end + body


def bodies(found: list[Piece]) -> list[bytes]:
    return [piece for piece in found if isinstance(piece, bytes)]


@pytest.mark.parametrize("end", [b"\r\n", b"\n"])
@pytest.mark.parametrize(
    "headers",
    [
        [],
        [b"Content-Type: application/vscode-jsonrpc; charset=utf-8"],
        [b"content-TYPE:application/json;charset=UTF8", b"X-Other: 1"],
        [b'Content-Type: application/json; charset="utf-8"'],
    ],
)
def test_messages_by_their_length(end: bytes, headers: list[bytes]) -> None:
    texts = [b'{"a":"\n\r\n"}', "é🎉".encode(), b"[]"]
    assert pieces(b"".join(framed(text, *headers, end=end) for text in texts)) == texts


def test_headers_in_any_order_and_case() -> None:
    block = b"Content-Type: a; charset=utf-8\r\ncONTENT-length:  2 \r\n\r\n{}"
    assert pieces(block + b"\r\n\r\n" + block) == [b"{}", b"{}"]


def test_a_message_over_the_limit_is_skipped_and_reported_once() -> None:
    big = framed(b"x" * (LIMIT + 1))
    whole = framed(b"x" * LIMIT)
    assert pieces(big + whole + big + big + framed(b"{}")) == [
        Oversize(LIMIT),
        b"x" * LIMIT,
        Oversize(LIMIT),
        Oversize(LIMIT),
        b"{}",
    ]


@pytest.mark.parametrize(
    "bad",
    [
        b"Content-Type: a\r\n\r\n{}",
        b"Content-Length: two\r\n\r\n{}",
        b"Content-Length: -2\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"Content-Length: 99999999999999999999\r\n\r\n{}",
        b"Content-Length: 2\r\nContent-Type: a; charset=utf-16\r\n\r\n{}",
        b"no colon\r\n\r\n{}",
        b"X: " + b"y" * 5000,
    ],
)
def test_what_cannot_be_understood_costs_no_later_message(bad: bytes) -> None:
    found = pieces(framed(b"[1]") + bad + framed(b"[2]") + framed(b"[3]"))
    assert any(isinstance(piece, Malformed) for piece in found)
    assert bodies(found)[0] == b"[1]"
    assert bodies(found)[-2:] == [b"[2]", b"[3]"]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("length", [2, LIMIT + 100])
def test_a_message_in_another_charset_is_skipped_whole(order: int, length: int) -> None:
    lines = [b"Content-Length: %d" % length, b"Content-Type: a; charset=utf-16"][::order]
    body = framed(b"[9]") + b"x" * length  # what looks like a message inside it is none
    found = pieces(b"\r\n".join(lines) + b"\r\n\r\n" + body[:length] + framed(b"[1]"))
    assert [type(piece) for piece in found] == [Malformed, bytes]
    assert found[1] == b"[1]"


GARBAGE = [b"junk", b"\r\n", b"\n", b"X: 1\r\n", b"Content-Type: a\r\n", b":"]
GARBAGE += [b"Content-Length: x\r\n", b'{"a":1}', b"\x00" * 40, b"Content-Len", b"y" * 5000]


@settings(deadline=None)
@given(st.lists(st.sampled_from(GARBAGE), max_size=6).map(b"".join))
def test_no_garbage_costs_the_messages_after_it(garbage: bytes) -> None:
    found = bodies(pieces(framed(b"[1]") + garbage + framed(b"[2]") + framed(b"[3]")))
    assert (found[0], found[-2:]) == (b"[1]", [b"[2]", b"[3]"])


def test_a_length_that_is_too_short_costs_no_later_message() -> None:
    """Some hosts count characters; what is left over runs into the next header."""
    text = '{"a":"é🎉"}'
    short = b"Content-Length: %d\r\n\r\n%b" % (len(text), text.encode())
    whole = framed(b"[1]")
    assert bodies(pieces(whole + short + whole + whole)) == [
        b"[1]",
        text.encode()[: len(text)],
        b"[1]",
        b"[1]",
    ]


@pytest.mark.parametrize("cut", range(1, len(framed(b"[1]"))))
def test_an_unfinished_message_is_none(cut: int) -> None:
    found = pieces(framed(b"[0]"), framed(b"[1]")[:cut])
    assert found[0] == b"[0]"
    assert [type(piece) for piece in found[1:]] == [Malformed]


STREAM = st.lists(
    st.one_of(
        st.binary(max_size=LIMIT + 4).map(framed),
        st.sampled_from([b"\r\n", b"junk\r\n", b"X: 1\r\n\r\n", b"Content-Length: x\r\n\r\n"]),
        st.binary(max_size=20),
    ),
    max_size=8,
).map(b"".join)
BORDERS = st.lists(st.integers(0, 10_000), max_size=30)


@settings(deadline=None)
@given(data=STREAM, borders=BORDERS)
def test_any_cut_gives_the_same_messages(data: bytes, borders: list[int]) -> None:
    edges = [0, *sorted(border % (len(data) + 1) for border in borders), len(data)]
    assert pieces(*(data[a:b] for a, b in pairwise(edges))) == pieces(data)


@pytest.mark.parametrize(
    ("data", "framing"),
    [
        (b'{"a":1}\n', "newline"),
        (b"\r\n \n[1]\n", "newline"),
        (b"continue\n", "newline"),
        (b"\x00\n", "newline"),
        (framed(b"{}"), "content-length"),
        (b"\r\n" + framed(b"{}"), "content-length"),
        (b"content-type: a\r\nContent-Length: 2\r\n\r\n{}", "content-length"),
        (b" \r\n" + framed(b"{}"), "content-length"),
        (b"  " + framed(b"{}"), "content-length"),
        (b" " * (LIMIT + 2) + b"{}\n", "newline"),
        (MARK + b"[1]\n", "newline"),
        (MARK + b" \r\n" + framed(b"{}"), "content-length"),
        (b"conten", "newline"),
        (MARK[:2], "newline"),
    ],
)
@pytest.mark.parametrize("single", [False, True])
def test_the_first_bytes_tell_the_framing(data: bytes, framing: str, single: bool) -> None:
    told: list[str] = []
    framer = AutoFramer(LIMIT, told.append)
    out: list[Piece] = []
    for chunk in [data[at : at + 1] for at in range(len(data))] if single else [data]:
        out += framer.feed(chunk)
    out += framer.close()
    assert told == [framing]
    assert len(bodies(out)) == 1


def converse(data: bytes, *options: str) -> list[Any]:
    """What the engine answers to these bytes, by Content-Length framing."""
    done = subprocess.run(
        [*COMMAND, *options], input=data, capture_output=True, timeout=60, check=True
    )
    return cut_frames(done.stdout)


def cut_frames(rest: bytes) -> list[Any]:
    """The messages of what was written by Content-Length framing."""
    out = []
    while rest:
        head, _, rest = rest.partition(b"\r\n\r\n")
        name, _, length = head.partition(b": ")
        assert name == b"Content-Length"
        out.append(json.loads(rest[: int(length)]))
        rest = rest[int(length) :]
    return out


def call(identity: int, method: str, **params: Any) -> bytes:
    message = {"jsonrpc": "2.0", "id": identity, "method": method, "params": params}
    return framed(json.dumps(message).encode())


@pytest.mark.parametrize("options", [[], ["--framing", "content-length"]])
def test_the_engine_answers_in_kind(options: list[str]) -> None:
    request = call(1, "initialize", protocolVersion=1) + call(
        2, "generate", prompt="def", maxTokens=3, ignoreEos=True
    )
    *notes, last = converse(request, *options)
    assert notes[0]["id"] == 1
    assert "stream/delta" in [note.get("method") for note in notes]
    texts = [note["params"]["text"] for note in notes if note.get("method") == "stream/delta"]
    assert last["result"]["text"] == "".join(texts)


def test_bad_frames_are_answered_and_the_stream_goes_on() -> None:
    limit = 2000
    junk = b"Content-Length: some\r\n\r\n{}"
    data = call(1, "ping") + junk + call(2, "ping") + framed(b"x" * (limit + 1)) + call(3, "ping")
    data += framed(b"{") + framed(b"") + framed(b" ")
    found = converse(data, "--max-message-bytes", str(limit))
    assert [(row["id"], row.get("error", {}).get("code")) for row in found] == [
        (1, None),
        (None, -32700),
        (2, None),
        (None, -32600),
        (3, None),
        *[(None, -32700)] * 3,
    ]


def test_newline_framing_can_be_demanded() -> None:
    done = subprocess.run(
        [*COMMAND, "--framing", "newline"],
        input=framed(b"{}"),
        capture_output=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[0])["error"]["code"] == -32700
