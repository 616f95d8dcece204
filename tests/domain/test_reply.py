from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.domain.identifiers import APP_ID, KEY_ID
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import parse_payload
from kmp_smsd.domain.reply import Reply, ReplyTo, earns_reply

TO = ReplyTo(1, 1, "8613912345678", 0, 1, "10690001")


@pytest.mark.parametrize("outcome", Outcome)
def test_terminal_is_told_of_its_key_where_it_is_bound_and_of_nothing_else(outcome):
    assert earns_reply(outcome) is (outcome in ("bound", "moved", "already_bound"))


@given(st.from_regex(KEY_ID, fullmatch=True), st.from_regex(APP_ID, fullmatch=True))
def test_reply_that_comes_back_asks_for_nothing(key_id, app_id):
    reply = Reply(number=1, link="north", key_id=key_id, app_id=app_id, to=TO, expires_at=0)
    assert parse_payload(reply.text) is None
    assert reply.text == f"K1:ok:{key_id}:{app_id}".encode()
    assert len(reply.text) <= 103
