from __future__ import annotations

import base64
import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.channels.hiding import REPEATS_A_KEY
from kmp_smsd.channels.protocol import Bind, Confirmed, Rejected, TryLater, Withdraw
from kmp_smsd.channels.wire import (
    Answer,
    Hello,
    WireError,
    encode_delivery,
    encode_hello,
    excerpt,
    judge,
    parse_answer,
    parse_hello,
)
from tests.channels.spellings import SPELLINGS
from tests.channels.test_hiding import is_legible

NOW_S = 1_732_380_000.0
BIND = Bind(
    mdn="8613912345678",
    app_id="meter",
    version=1732380000000,
    key_id="8A3F",
    algorithm="aes",
    kcv="BE7ED6",
    key=bytes(range(16)),
)
WITHDRAW = Withdraw(mdn="8613912345678", app_id="meter", version=1732380000001)
RECEIPT = "zsK3lg-CzMhj3PeymwM_Gg"


def test_lines_are_those_of_the_document() -> None:
    assert encode_hello("lab", 100) == b'{"v":1,"type":"hello","kmp":"lab","window":100}\n'
    assert encode_delivery(17, BIND) == (
        b'{"id":17,"type":"bind","mdn":"8613912345678","app_id":"meter","version":1732380000000,"key_id":"8A3F",'
        b'"alg":"aes","key":"AAECAwQFBgcICQoLDA0ODw","kcv":"BE7ED6"}\n'
    )
    assert encode_delivery(18, WITHDRAW) == (
        b'{"id":18,"type":"withdraw","mdn":"8613912345678","app_id":"meter","version":1732380000001}\n'
    )


@given(st.text(), st.text(), st.integers(1, 2**63 - 1), st.text(), st.text(), st.text(), st.binary(max_size=64))
def test_whatever_a_stolen_intake_wrote_is_one_line_of_json(
    mdn: str, app_id: str, version: int, key_id: str, algorithm: str, kcv: str, key: bytes
) -> None:
    bind = Bind(mdn=mdn, app_id=app_id, version=version, key_id=key_id, algorithm=algorithm, kcv=kcv, key=key)
    line = encode_delivery(17, bind)
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "id": 17, "type": "bind", "mdn": mdn, "app_id": app_id, "version": version, "key_id": key_id,
        "alg": algorithm, "key": base64.urlsafe_b64encode(key).rstrip(b"=").decode(), "kcv": kcv,
    }  # fmt: skip


def test_longest_delivery_is_far_below_the_least_line() -> None:
    longest = Bind(
        mdn="9" * 15, app_id="a" * 32, version=2**63 - 1, key_id="k" * 64, algorithm="hmac", kcv="F" * 6, key=bytes(64)
    )
    assert len(encode_delivery(2**63 - 1, longest)) < 512


def test_hello_of_the_receiver_is_read() -> None:
    line = b'{"v":1,"type":"hello","receiver":"r","window":50,"max_line":65536,"future":true}'
    assert parse_hello(line, ()) == Hello(receiver="r", window=50, max_line=65536)


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"[]",
        b"{}",
        b'{"v":1,"type":"bind","receiver":"r","window":50,"max_line":65536}',
        b'{"v":2,"type":"hello","receiver":"r","window":50,"max_line":65536}',
        b'{"v":true,"type":"hello","receiver":"r","window":50,"max_line":65536}',
        b'{"v":1,"type":"hello","receiver":7,"window":50,"max_line":65536}',
        b'{"v":1,"type":"hello","receiver":"r","window":0,"max_line":65536}',
        b'{"v":1,"type":"hello","receiver":"r","window":"50","max_line":65536}',
        b'{"v":1,"type":"hello","receiver":"r","window":50,"max_line":-1}',
        b'{"v":1,"type":"hello","receiver":"r","window":50}',
        b'{"v":1,"type":"hello","receiver":"r","window":50,"max_line":1e999}',
        b'{"v":1,"type":"hello","receiver":"r","window":50,"max_line":true}',
        b'{"v":1,"type":"hello","receiver":"r","window":' + b"9" * 400 + b',"max_line":65536}',
        b'{"v":' + b"1" * 400 + b',"type":"hello","receiver":"r","window":50,"max_line":65536}',
    ],
)
def test_hello_that_is_none_is_an_error(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_hello(line, ())


def test_receiver_that_can_take_no_delivery_is_told_so_at_its_hello() -> None:
    hello = '{"v":1,"type":"hello","receiver":"r","window":50,"max_line":%d}'
    assert parse_hello((hello % 1_024).encode(), ()).max_line == 1_024
    with pytest.raises(WireError, match=r"takes lines of 1023 octets only .*; a delivery needs 1024"):
        parse_hello((hello % 1_023).encode(), ())


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[1]",
        b"{}",
        b'{"id":"17"}',
        b'{"id":17.0}',
        b'{"id":true}',
        b'{"id":-1}',
        b'{"id":9223372036854775808}',
        b'{"id":' + b"1" * 5000 + b"}",
        b'{"id":17,"id":18}',
        b'{"id":17,"retry_after_s":NaN}',
        b'{"id":17} {"id":18}',
        b"[" * 60_000,
    ],
)
def test_line_that_belongs_to_no_question_is_an_error(line: bytes) -> None:
    with pytest.raises(WireError):
        parse_answer(line, ())


def judged(delivery: Bind | Withdraw = BIND, **fields: Any) -> Confirmed | TryLater | Rejected:
    return judge(Answer(17, fields), delivery, NOW_S)


def test_right_receipt_confirms() -> None:
    assert judged(status="stored", receipt=RECEIPT) == Confirmed(BIND)
    assert judged(WITHDRAW, status="removed") == Confirmed(WITHDRAW)


@pytest.mark.parametrize("proof", ["", RECEIPT[:-1], RECEIPT + "=", RECEIPT.lower(), "\ud800", None, 0, [RECEIPT]])
def test_receipt_that_is_not_ours_is_an_alarm(proof: Any) -> None:
    result = judged(status="stored", receipt=proof)
    assert isinstance(result, Rejected)
    assert result.alarm


@pytest.mark.parametrize("status", [None, "", "ok", "STORED", "removed", 0, ["stored"], {"a": 1}, 10**4_000, 1e308])
def test_status_that_the_protocol_has_not_proves_nothing(status: Any) -> None:
    assert isinstance(judged(status=status, receipt=RECEIPT), TryLater)


def test_stored_is_no_answer_to_a_withdraw() -> None:
    assert isinstance(judged(WITHDRAW, status="stored", receipt=RECEIPT), TryLater)


@pytest.mark.parametrize("held", [None, "x", True, 1.5, -1, BIND.version, BIND.version - 1, 2**63])
def test_stale_without_a_higher_version_gives_no_version_to_pass(held: Any) -> None:
    result = judged(status="stale", version=held)
    assert isinstance(result, TryLater)
    assert result.held_version is None


def test_stale_is_believed_up_to_a_day_ahead_of_our_clock() -> None:
    ahead = int(NOW_S * 1000) + 86_400_000
    believed = judged(status="stale", version=ahead)
    assert isinstance(believed, TryLater)
    assert believed.held_version == ahead
    for version in (ahead + 1, 2**63 - 1):
        absurd = judged(status="stale", version=version)
        assert isinstance(absurd, Rejected)
        assert absurd.alarm


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("0", 0.0), ("30", 30.0), ("1.5", 1.5), ("-0.0", 0.0), ("1000000000", 86_400.0), ("1e999", 86_400.0),
        pytest.param("9" * 400, 86_400.0, id="400 digits"), pytest.param("9" * 4_000, 86_400.0, id="4000 digits"),
        ("-1", None), ("-1e999", None), pytest.param("-" + "9" * 400, None, id="-400 digits"),
        ('"30"', None), ("true", None), ("null", None), ("[30]", None),
    ],
)  # fmt: skip
def test_retry_is_bounded_to_a_day(asked: str, given: float | None) -> None:
    answer = parse_answer(f'{{"id":17,"status":"retry","retry_after_s":{asked},"reason":"busy"}}'.encode(), ())
    assert judge(answer, BIND, NOW_S) == TryLater(BIND, "busy", retry_after_s=given)


@pytest.mark.parametrize("name", SPELLINGS)
@pytest.mark.parametrize("field", ["reason", "status"])
def test_key_in_an_answer_is_hidden_however_it_is_spelled(name: str, field: str) -> None:
    key = bytes.fromhex("5ec2e7ca11ab1e0ddba11c0ffee00d1e")
    spelled = SPELLINGS[name](key)
    answer = parse_answer(json.dumps({"id": 17, "status": "rejected", field: f"no key {spelled}"}).encode(), ())
    result = judge(answer, replace(BIND, key=key), NOW_S)
    assert not isinstance(result, Confirmed)
    shown = result.reason.removeprefix("answered ").removesuffix(", which is no answer to this").strip("'")
    assert shown == REPEATS_A_KEY or not is_legible(key, spelled, shown)


def test_key_that_is_plain_words_is_in_no_text_that_is_made_of_a_line() -> None:
    """Nothing but the key itself tells it from prose."""
    key = b"opensesamesecret"
    bind = replace(BIND, key=key)
    for fields in ({"status": "rejected", "reason": "no opensesamesecret"}, {"status": "opensesamesecret"}):
        assert REPEATS_A_KEY in str(judge(Answer(17, fields), bind, NOW_S))
    assert excerpt(key, (key,)) == REPEATS_A_KEY
    hello = '{"v":%d,"type":"%s","window":1,"max_line":%d,"receiver":%s}'
    for line in ("%s", '["%s"]', '{"name":"%s"}', hello % (2, "hello", 1024, '"%s"'), hello % (1, "hello", 0, '"%s"')):
        with pytest.raises(WireError, match=REPEATS_A_KEY):
            parse_hello((line % key.decode()).encode(), (key,))
        with pytest.raises(WireError, match=REPEATS_A_KEY):
            parse_answer((line % key.decode()).encode(), (key,))
    named = hello % (1, "hello", 1024, f'"{key.decode()}"')
    assert parse_hello(named.encode(), (key,)).receiver == REPEATS_A_KEY


def test_key_is_not_seen_where_a_delivery_or_an_answer_is_printed() -> None:
    assert repr(BIND.key) not in repr(Confirmed(BIND))
    assert repr(parse_answer(b'{"id":17,"key":"AAECAwQFBgcICQoLDA0ODw"}', ())) == "Answer(id=17)"


@pytest.mark.parametrize("reason", ["null", '""', '"  "', "7", "true", '["busy"]', '{"why":"busy"}'])
def test_reason_that_is_no_text_is_none(reason: str) -> None:
    for status in ("retry", "rejected"):
        answer = parse_answer(f'{{"id":17,"status":"{status}","reason":{reason}}}'.encode(), ())
        result = judge(answer, BIND, NOW_S)
        assert not isinstance(result, Confirmed)
        assert result.reason == "no reason given"


@pytest.mark.parametrize("status", ["stale", "retry", "rejected"])
def test_numbers_of_a_platform_are_in_no_reason(status: str) -> None:
    for echoed in (int(BIND.mdn), int.from_bytes(b"8octets!", "big") >> 1):
        result = judged(status=status, version=echoed, reason=f"no subscriber {echoed}", retry_after_s=echoed)
        assert not isinstance(result, Confirmed)
        assert str(echoed)[:5] not in result.reason


def test_reason_is_one_short_line_of_printable_text() -> None:
    result = judged(status="rejected", reason="no\n\x1b[31m such\tapp \u202e" + "long " * 100)
    assert isinstance(result, Rejected)
    assert len(result.reason) <= 200
    assert result.reason.isprintable()
    assert result.reason.isascii()


def test_excerpt_keeps_paths_and_hides_what_may_be_a_key() -> None:
    assert excerpt(b"bash: line 1: /usr/local/bin/kmp-receive: No such file or directory", ()).endswith("directory")
    assert excerpt(b"key " + b"0a" * 16 + b" here", ()) == "key ... here"
    assert len(excerpt(b"word " * 100, ())) == 80


@given(st.binary(max_size=300))
def test_any_line_is_an_answer_or_a_declared_error(line: bytes) -> None:
    try:
        answer = parse_answer(line, ())
    except WireError:
        return
    assert not isinstance(judge(answer, BIND, NOW_S), Confirmed)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.fixed_dictionaries(
        {
            "id": st.just(17),
            "status": st.sampled_from(["stored", "removed", "stale", "retry", "rejected"]) | json_values,
        },
        optional=dict.fromkeys(("receipt", "version", "retry_after_s", "reason"), json_values),
    )
)
def test_nothing_but_the_receipt_confirms_a_key(fields: dict[str, Any]) -> None:
    answer = parse_answer(json.dumps(fields).encode(), ())
    assert not isinstance(judge(answer, BIND, NOW_S), Confirmed)
