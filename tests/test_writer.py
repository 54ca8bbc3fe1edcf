"""The single writer over a real pipe: whole messages, in order, and nobody waits for the host."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest

from mlx_stdio.wire.writer import Frame, Item, Writer

PATIENCE = 30.0


class Piece:
    """Text of one stream; numbered when it leaves, as the session's deltas are."""

    def __init__(self, text: str, numbers: Iterator[int]) -> None:
        self.text = text
        self._numbers = numbers

    def render(self) -> bytes:
        return json.dumps({"seq": next(self._numbers), "text": self.text}).encode()

    def absorb(self, later: Item) -> bool:
        if not isinstance(later, Piece):
            return False
        self.text += later.text
        return True


class Pipe:
    """A pipe with a writer at one end; whoever reads the other end is the test."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.broken = 0
        self.writer = Writer(self.writing, self._on_broken)

    def _on_broken(self) -> None:
        self.broken += 1

    def close_reading(self) -> None:
        os.close(self.reading)
        self.reading = -1

    def read_all(self) -> bytes:
        """Read until the writing end is closed."""
        data = b""
        while chunk := os.read(self.reading, 1 << 16):
            data += chunk
        return data

    def drain(self, until: bytes) -> bytes:
        """Read until the data ends so."""
        data = b""
        while not data.endswith(until):
            chunk = os.read(self.reading, 1 << 16)
            assert chunk
            data += chunk
        return data


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    # The reading end first: a writer thread that is inside `write` gets its error and ends.
    if pipe.reading >= 0:
        pipe.close_reading()
    wait_for(lambda: not pipe.writer._writing)
    os.close(pipe.writing)


def wait_for(condition: object) -> None:
    assert callable(condition)
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


def fill(pipe: Pipe) -> int:
    """Fill the pipe without the writer; how many bytes it took."""
    os.set_blocking(pipe.writing, False)
    filled = 0
    try:
        while True:
            filled += os.write(pipe.writing, b"\n" * 4096)
    except BlockingIOError:
        os.set_blocking(pipe.writing, True)
        return filled


def test_messages_leave_in_order_in_one_write(pipe: Pipe) -> None:
    for number in range(100):
        pipe.writer.put(Frame(b"%d" % number))
    assert os.fstat(pipe.reading)  # nothing was written yet
    os.set_blocking(pipe.reading, False)
    with pytest.raises(BlockingIOError):
        os.read(pipe.reading, 1)
    pipe.writer.flush()
    # One `read` finds all of them: they came in one `write`.
    assert os.read(pipe.reading, 1 << 16) == b"".join(b"%d\n" % n for n in range(100))


def test_messages_of_many_threads_are_whole_and_each_thread_in_order(pipe: Pipe) -> None:
    sizes = [1, 50, 3000, 5000, 70_000]  # below and above what a pipe takes at once

    def work(thread: int) -> None:
        for number in range(60):
            body = "x" * sizes[(thread + number) % len(sizes)]
            pipe.writer.put(Frame(json.dumps([thread, number, body]).encode()))
            pipe.writer.flush()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    last: dict[int, int] = {}
    lines = 0
    data = b""
    while lines < 8 * 60:
        data += os.read(pipe.reading, 1 << 16)
        *whole, data = data.split(b"\n")
        for line in whole:
            thread_index, number, body = json.loads(line)
            assert number == last.get(thread_index, -1) + 1
            assert body == "x" * sizes[(thread_index + number) % len(sizes)]
            last[thread_index] = number
            lines += 1
    assert data == b""
    for thread in threads:
        thread.join(PATIENCE)


def test_a_full_pipe_blocks_nobody_and_loses_nothing(pipe: Pipe) -> None:
    filled = fill(pipe)

    def work() -> None:
        for number in range(500):
            pipe.writer.put(Frame(b"%d" % number))
            pipe.writer.flush()

    caller = threading.Thread(target=work)
    caller.start()
    caller.join(PATIENCE)
    assert not caller.is_alive()  # while nobody reads
    data = pipe.drain(b"\n499\n")[filled:]
    assert data.splitlines() == [b"%d" % number for number in range(500)]


def test_a_message_larger_than_the_pipe_blocks_nobody(pipe: Pipe) -> None:
    big = b"x" * (1 << 20)
    pipe.writer.put(Frame(big))
    pipe.writer.flush()
    pipe.writer.put(Frame(b"after"))
    pipe.writer.flush()
    assert pipe.drain(b"\nafter\n") == big + b"\nafter\n"


def test_a_slow_reader_gets_fewer_pieces_and_every_character(pipe: Pipe) -> None:
    filled = fill(pipe)
    lanes = {"a": count(), "b": count()}
    for number in range(300):
        for lane, numbers in lanes.items():
            pipe.writer.put(Piece(f"{lane}{number} ", numbers), lane=lane)
        pipe.writer.flush()
    pipe.writer.put(Frame(b"end"))
    pipe.writer.flush()
    rows = [json.loads(line) for line in pipe.drain(b"\nend\n")[filled:].splitlines()[:-1]]
    assert len(rows) < 50
    for lane in lanes:
        mine = [row for row in rows if row["text"].startswith(lane)]
        assert [row["seq"] for row in mine] == list(range(len(mine)))
        assert "".join(row["text"] for row in mine) == "".join(f"{lane}{n} " for n in range(300))


def test_a_fast_reader_gets_each_piece_by_itself(pipe: Pipe) -> None:
    numbers = count()
    for number in range(20):
        pipe.writer.put(Piece(str(number), numbers), lane="a")
        pipe.writer.flush()
        row = json.loads(os.read(pipe.reading, 1 << 16))
        assert row == {"seq": number, "text": str(number)}


def test_a_piece_never_joins_across_its_reply(pipe: Pipe) -> None:
    """After the reply nothing may be merged into what stands before it."""
    filled = fill(pipe)
    numbers = count()
    pipe.writer.put(Frame(b"first"))
    pipe.writer.flush()  # the writer's thread has taken this one and is stuck with it
    wait_for(lambda: pipe.writer._writing)
    pipe.writer.put(Piece("x", numbers), lane="a")
    pipe.writer.put(Frame(b"reply"))
    pipe.writer.put(Piece("y", numbers), lane="b")
    pipe.writer.flush()
    rows = pipe.drain(b'"y"}\n')[filled:].splitlines()
    assert rows == [b"first", b'{"seq": 0, "text": "x"}', b"reply", b'{"seq": 1, "text": "y"}']


@pytest.mark.parametrize("size", [10, 100_000])
def test_a_reader_that_is_gone_is_reported_once(pipe: Pipe, size: int) -> None:
    pipe.close_reading()
    for _ in range(20):
        pipe.writer.put(Frame(b"x" * size))
        pipe.writer.flush()
    wait_for(lambda: pipe.broken)
    pipe.writer.put(Frame(b"x"))
    pipe.writer.flush()
    assert pipe.writer.close(PATIENCE) is False
    time.sleep(0.05)
    assert pipe.broken == 1
    assert pipe.writer.backlog == 0


def test_a_reader_that_goes_while_it_is_waited_for_is_reported_once(pipe: Pipe) -> None:
    pipe.writer.put(Frame(b"x" * (1 << 20)))
    pipe.writer.flush()
    wait_for(lambda: pipe.writer._writing)
    pipe.close_reading()
    assert pipe.writer.close(PATIENCE) is False
    wait_for(lambda: pipe.broken == 1)


def test_close_waits_until_all_is_written(pipe: Pipe) -> None:
    fill(pipe)
    data: list[bytes] = []
    body = b"x" * 300_000
    pipe.writer.put(Frame(body))
    pipe.writer.flush()
    pipe.writer.put(Frame(b"last"))

    def read() -> None:
        time.sleep(0.1)
        data.append(pipe.drain(b"\nlast\n"))

    reader = threading.Thread(target=read)
    reader.start()
    assert pipe.writer.close(None) is True
    reader.join(PATIENCE)
    assert data[0].lstrip(b"\n") == body + b"\nlast\n"


def test_close_gives_up_on_a_reader_that_does_not_read(pipe: Pipe) -> None:
    fill(pipe)
    pipe.writer.put(Frame(b"x"))
    assert pipe.writer.close(0.05) is False


def test_a_pipe_made_non_blocking_by_somebody_is_written_all_the_same(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    sent = [b"x" * size for size in (10, 4000, 5000, 200_000, 1_000_000, 3)]
    for body in sent:
        pipe.writer.put(Frame(body))
        pipe.writer.flush()
    assert pipe.drain(b"\nxxx\n").splitlines() == sent
    assert pipe.writer.close(PATIENCE) is True
    assert pipe.broken == 0


def test_a_write_into_a_closed_descriptor_is_a_reader_that_is_gone() -> None:
    reading, writing = os.pipe()
    reports: list[int] = []
    writer = Writer(writing, lambda: reports.append(1))
    os.close(reading)
    os.close(writing)
    writer.put(Frame(b"x"))
    writer.flush()
    assert reports == [1]


def test_nothing_leaves_before_the_framing_is_known() -> None:
    pipe = Pipe()
    pipe.writer.hold()
    pipe.writer.put(Frame(b"early"))
    pipe.writer.flush()
    os.set_blocking(pipe.reading, False)
    with pytest.raises(BlockingIOError):
        os.read(pipe.reading, 1)
    pipe.writer.begin(lambda message: b"<" + message + b">")
    pipe.writer.put(Frame(b"late"))
    pipe.writer.flush()
    assert os.read(pipe.reading, 99) == b"<early><late>"


def test_what_was_held_leaves_at_the_end() -> None:
    """A host that never wrote a byte still hears of a fault; a line is the simpler frame."""
    pipe = Pipe()
    pipe.writer.hold()
    pipe.writer.put(Frame(b"fatal"))
    assert pipe.writer.close(PATIENCE)
    assert os.read(pipe.reading, 99) == b"fatal\n"
