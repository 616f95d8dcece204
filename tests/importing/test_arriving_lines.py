"""Lines cut as they arrive."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.importing.arriving_lines import MOST_OCTETS, ArrivingLines


def cut(*pieces: bytes) -> list[tuple[int, bytes | None]]:
    lines = ArrivingLines()
    return [line for piece in pieces for line in lines.receive(piece)] + lines.end()


@given(st.lists(st.binary(max_size=6).map(lambda octets: octets.replace(b"\r", b"\n"))))
def test_cutting_the_stream_anywhere_changes_nothing(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    assert cut(*pieces) == cut(whole)
    lines = whole.split(b"\n")
    assert cut(whole) == list(enumerate(lines if lines[-1] else lines[:-1], 1))


def test_line_is_there_as_soon_as_it_ends() -> None:
    lines = ArrivingLines()
    assert lines.receive(b"one\ntw") == [(1, b"one")]
    assert lines.receive(b"o\n") == [(2, b"two")]
    assert lines.end() == []


def test_line_that_is_too_long_is_forgotten_as_it_arrives() -> None:
    lines = ArrivingLines()
    for _ in range(100):
        assert lines.receive(b"x" * 10_000) == []
        assert len(lines._begun) <= MOST_OCTETS
    assert lines.receive(b"x\nnext\n") == [(1, None), (2, b"next")]


def test_longest_line_is_one_and_a_longer_one_is_none() -> None:
    assert cut(b"x" * MOST_OCTETS + b"\n")[0][1] is not None
    assert cut(b"x" * MOST_OCTETS)[0][1] is not None
    assert cut(b"x" * (MOST_OCTETS + 1) + b"\n") == cut(b"x", b"x" * MOST_OCTETS) == [(1, None)]
