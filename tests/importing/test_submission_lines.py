from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.numbering import NumberingPlan, NumberRange
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.importing.json_lines import LineFault
from kmp_smsd.importing.submission_lines import Submitted, read_submission

PLAN = NumberingPlan("86", (NumberRange("8613", 13, "mobile"),))
MDN = "8613912345678"
GOOD: dict[str, Any] = {"id": "s-1", "mdn": "+86 139 1234 5678", "payload": "K1:8A3F"}


def read(fields: dict[str, Any] | bytes) -> Submitted:
    line = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
    return read_submission(line, PLAN.parse, gateway="data", received_at=7)


def test_line_becomes_a_request_of_its_gateway() -> None:
    assert read(GOOD) == Submitted("s-1", SyncRequest(mdn=MDN, key_id="8A3F", received_at=7, link="data"))
    proven = read({**GOOD, "payload": "K1:8A3F:meter:12:0123456789ABC"}).asked
    assert isinstance(proven, SyncRequest)
    assert (proven.app_id, proven.proof) == ("meter", Proof(12, "0123456789ABC"))


@pytest.mark.parametrize(
    ("fields", "id", "says"),
    [
        (b"\xff", None, "not UTF-8"),
        (b"[1]", None, "not a JSON object"),
        ({**GOOD, "id": 1}, None, '"id" must be'),
        ({**GOOD, "paylod": "K1:1"}, "s-1", "did you mean 'payload'"),
        ({**GOOD, "mdn": "12345"}, "s-1", "no legal number"),
        ({**GOOD, "mdn": 8613912345678}, "s-1", "in quotes"),
        ({**GOOD, "payload": "hello"}, "s-1", "write K1:KEY-ID"),
        ({**GOOD, "payload": "K1:\ud800"}, "s-1", "write K1:KEY-ID"),
        ({"id": "s-1", "mdn": MDN}, "s-1", '"payload" must be'),
    ],
)
def test_what_is_no_request_is_explained(fields: dict[str, Any] | bytes, id: str | None, says: str) -> None:
    found = read(fields)
    assert found.id == id
    assert isinstance(found.asked, LineFault)
    assert says in str(found.asked)


objects = st.dictionaries(st.text(max_size=8), st.text() | st.integers()).map(lambda one: json.dumps(one).encode())


@given(st.binary(max_size=200) | objects)
def test_any_line_is_a_request_or_a_fault(line: bytes) -> None:
    assert isinstance(read(line).asked, SyncRequest | LineFault)
