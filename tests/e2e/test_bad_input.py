"""Rubbish on the wire: a clear answer each time, and the daemon still bound and binding afterwards."""

from __future__ import annotations

from struct import pack

import pytest

from kmp_smsd.simulator.deliver import deliver_sm_body
from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier

NEVER = CommandStatus.ESME_RX_R_APPN


def udh(octets: str, text: str) -> bytes:
    return bytes.fromhex(octets) + text.encode()


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("K1:KEY:", {}),
        ("K1:KEY::1:000000000000", {}),
        ("k1:KEY-00001", {}),
        ("K1:" + "A" * 65, {}),
        ("K1:KEY:" + "a" * 33, {}),
        ("K1:KEY:app:01:0000000000000", {}),
        ("K1:KEY:app:9223372036854775808:0000000000000", {}),
        ("K1:KEY:app:1:G000000000000", {}),
        ("K1:KEY\u00e9", {}),
        ("K1:KEY", {"data_coding": 8, "tlvs": ((0x0424, b"K1:OTHER"),)}),
        (udh("050003010201", "K1:KEY"), {"esm_class": 0x40}),  # one of several parts
        (udh("ff0003010201", "K1:KEY"), {"esm_class": 0x40}),  # a header longer than the message
        (b"", {"esm_class": 0x40}),
        ("K1:KEY", {"tlvs": ((0x020C, b"\0\1"), (0x020E, b"\2"), (0x020F, b"\1"))}),
    ],
)
def test_payload_that_is_none_is_never_sent_again(carrier, text, fields):
    mdn, key = carrier.terminal("meter")
    status = carrier.say(mdn, text, **fields)
    assert status == NEVER
    assert carrier.outcomes(mdn) == ["malformed"]
    assert carrier.say(mdn, f"K1:{key}") == CommandStatus.ESME_ROK


@pytest.mark.parametrize(
    ("source_addr", "ton", "npi"),
    [
        ("", 0, 0),
        ("MyBank", 5, 0),
        ("10086", 3, 1),
        ("861380000000012345", 1, 1),
        ("86138000000a1", 1, 1),
        ("460001234567890", 1, 6),
        ("8615800000001", 1, 1),
        ("+-*#", 0, 0),
    ],
)
def test_source_that_is_no_mdn_is_never_sent_again(carrier, source_addr, ton, npi):
    status = carrier.say(source_addr, "K1:KEY", source_addr_ton=ton, source_addr_npi=npi)
    assert status == NEVER


@pytest.mark.parametrize(
    "cut",
    [
        pytest.param(lambda body: body[:1], id="one octet"),
        pytest.param(lambda body: body[:9], id="no end of source_addr"),
        pytest.param(lambda body: body[:-3], id="shorter than sm_length"),
        pytest.param(lambda body: body.replace(b"\0", b"\1"), id="no NUL at all"),
        pytest.param(lambda _: b"", id="no body"),
    ],
)
def test_body_that_ends_early_gets_an_error_and_is_not_guessed_at(carrier, cut):
    mdn, key = carrier.terminal("meter")
    status = carrier.answered(carrier.smsc.send_body(cut(deliver_sm_body(mdn, f"K1:{key}"))))
    assert status not in (CommandStatus.ESME_ROK, CommandStatus.ESME_RX_P_APPN)
    assert carrier.outcomes(mdn) == []
    assert carrier.say(mdn, f"K1:{key}") == CommandStatus.ESME_ROK


@pytest.mark.parametrize(
    "tail", [b"\0", b"\0\0\0", pack(">HH", 0x1400, 1) + b"\1", pack(">HH", 0x001E, 0x41) + b"12345"]
)
def test_octets_behind_the_message_do_not_matter(carrier, tail):
    mdn, key = carrier.terminal("meter")
    sent = carrier.smsc.send_body(deliver_sm_body(mdn, f"K1:{key}") + tail)
    assert carrier.answered(sent) == CommandStatus.ESME_ROK
    assert carrier.outcomes(mdn) == ["bound"]


def test_flood_in_a_subscribers_name_is_left_with_the_smsc_and_loses_nothing(tmp_path):
    with Carrier(tmp_path, sync={"mdn_burst": 5, "mdn_per_minute": 600.0}) as carrier:
        carrier.start_role("run")
        mdn, key = carrier.terminal("meter")
        forged = [carrier.smsc.send(mdn, f"K1:FORGED-{number}") for number in range(20)]
        hers = carrier.smsc.send(mdn, f"K1:{key}")
        assert all(answer.result(60) == CommandStatus.ESME_ROK for answer in forged)
        assert carrier.answered(hers) == CommandStatus.ESME_ROK
        assert carrier.smsc.counts.put_off > 0
        assert carrier.bindings() == {(mdn, "meter"): key}
