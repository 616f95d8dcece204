from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.control.protocol import (
    Done,
    NotDone,
    PathTooLong,
    Progress,
    ProtocolFault,
    Request,
    decode_answer,
    socket_path,
)


def test_a_request_is_one_line_of_json() -> None:
    line = Request("pause", {"kind": "smsc", "name": "north"}).encode()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert json.loads(line) == {"v": 1, "command": "pause", "kind": "smsc", "name": "north"}
    assert Request.decode(line) == Request("pause", {"kind": "smsc", "name": "north"})


@pytest.mark.parametrize("answer", [Progress("a\nb"), Done({"links": []}), NotDone("a\nb", 78)])
def test_every_answer_is_read_as_it_was_written(answer: Progress | Done | NotDone) -> None:
    assert answer.encode().count(b"\n") == 1
    assert decode_answer(answer.encode()) == answer


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b"", "one JSON object"),
        (b"[1]", "one JSON object"),
        (b"{" * 100_000, "one JSON object"),
        (b'{"command":"status"}', "version 1"),
        (b'{"v":2,"command":"status"}', "version 1"),
        (b'{"v":1}', "command is missing"),
        (b'{"v":1,"command":7}', "command is missing"),
        (b'\xff{"v":1}', "one JSON object"),
    ],
)
def test_what_is_no_request_is_said_to_be_none(line: bytes, why: str) -> None:
    with pytest.raises(ProtocolFault, match=why):
        Request.decode(line)


@given(st.binary(max_size=200))
def test_any_octets_are_a_request_or_a_fault(line: bytes) -> None:
    with suppress(ProtocolFault):
        assert isinstance(Request.decode(line).command, str)


@given(st.binary(max_size=200))
def test_any_octets_are_an_answer_or_a_fault(line: bytes) -> None:
    with suppress(ProtocolFault):
        assert decode_answer(line).encode()


def test_a_path_that_no_socket_can_have_is_refused() -> None:
    longest = Path("/" + "d" * (107 - len("//intake.sock")))
    assert len(str(socket_path(longest, "intake"))) == 107
    with pytest.raises(PathTooLong, match=r"has 109 octets, .* at most 107: give \[control\] directory a shorter one"):
        socket_path(longest, "dispatch")
