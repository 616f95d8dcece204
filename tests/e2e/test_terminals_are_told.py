"""Terminals that are told, by the daemon as it is, that their platform has their key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.simulator.lab import SHORT_CODE
from kmp_smsd.simulator.submit import Manner, SubmitAnswer
from kmp_smsd.smpp.constants import CommandStatus
from kmp_smsd.smpp.submit import SubmitSm
from tests.e2e.carrier import Carrier

OK = CommandStatus.ESME_ROK
THROTTLED = CommandStatus.ESME_RTHROTTLED


@pytest.fixture
def carrier_with(tmp_path: Path) -> Iterator[Callable[..., Carrier]]:
    """An installation that replies, with options of the link."""
    with ExitStack() as stack:

        def make(**link: Any) -> Carrier:
            return stack.enter_context(Carrier(tmp_path, link={"reply": "confirmed", **link}))

        yield make


def told(carrier: Carrier) -> list[tuple[str, bytes]]:
    return [(one.destination_addr, one.short_message) for one in carrier.smsc.submitted]


def states(carrier: Carrier) -> Counter[str]:
    return Counter(row["state"] for row in carrier.listing("replies", "list"))


@pytest.mark.parametrize("bind", ["transceiver", "pair"])
def test_terminal_is_told_once_its_platform_has_the_key(carrier_with, bind):
    carrier = carrier_with(bind=bind)
    mdn, key = carrier.terminal("meter")
    carrier.start_role("intake")
    assert carrier.say(mdn, f"K1:{key}") == OK
    (waiting,) = carrier.listing("replies", "list", "--mdn", mdn)
    assert (waiting["state"], waiting["key_id"], waiting["app_id"]) == ("waiting", key, "meter")
    assert told(carrier) == []
    carrier.start_role("dispatch")
    carrier.wait_for(lambda: states(carrier) == {"sent": 1}, "the reply to be sent")
    assert [row["key_id"] for row in carrier.platforms["metering"].holds()] == [key]
    (reply,) = carrier.smsc.submitted
    assert reply == SubmitSm(
        source_addr_ton=0,
        source_addr_npi=1,
        source_addr=SHORT_CODE,
        dest_addr_ton=1,
        dest_addr_npi=1,
        destination_addr=mdn,
        validity_period=reply.validity_period,
        short_message=f"K1:ok:{key}:meter".encode(),
    )
    assert "00000000000000" < reply.validity_period[:14] <= "00000001000000"


def test_reply_to_a_port_goes_back_from_the_port_that_was_called(carrier_with):
    carrier = carrier_with(bind="transceiver")
    mdn, key = carrier.terminal("meter")
    carrier.start_role("run")
    called = bytes.fromhex("060504 1388 1f90")
    assert carrier.say(mdn, called + f"K1:{key}".encode(), esm_class=0x40, data_coding=4) == OK
    carrier.wait_for(lambda: bool(told(carrier)), "the reply")
    (reply,) = carrier.smsc.submitted
    assert (reply.esm_class, reply.data_coding) == (0x40, 4)
    assert reply.short_message == bytes.fromhex("060504 1f90 1388") + f"K1:ok:{key}:meter".encode()


@pytest.mark.parametrize("manner", [Manner.RESPONSE, Manner.GENERIC_NACK])
def test_throttled_reply_is_sent_again_later_and_taken_once(carrier_with, manner):
    carrier = carrier_with(bind="pair")
    mdn, key = carrier.terminal("meter")
    left = iter([SubmitAnswer(THROTTLED, manner), SubmitAnswer(CommandStatus.ESME_RMSGQFUL, manner)])
    carrier.smsc.answer_submits(lambda _: next(left, SubmitAnswer()))
    carrier.start_role("run")
    assert carrier.say(mdn, f"K1:{key}") == OK
    carrier.wait_for(lambda: states(carrier) == {"sent": 1}, "the reply to be sent")
    assert told(carrier) == [(mdn, f"K1:ok:{key}:meter".encode())]
    assert carrier.smsc.counts.submits == 3


@pytest.mark.parametrize("what", ["kill -9", "SIGTERM", "disconnect"])
def test_reply_whose_answer_is_lost_is_never_sent_twice(carrier_with, what):
    carrier = carrier_with(bind="transceiver", unbind_timeout_s=0.5)
    mdn, key = carrier.terminal("meter")
    carrier.smsc.answer_submits(lambda _: SubmitAnswer(manner=Manner.SILENCE))
    role = carrier.start_role("run")
    assert carrier.say(mdn, f"K1:{key}") == OK
    carrier.wait_for(lambda: carrier.smsc.counts.submits == 1, "the reply to leave")
    assert states(carrier) == {"sending": 1}
    if what == "disconnect":
        carrier.smsc.drop()
    else:
        role.kill() if what == "kill -9" else role.stop()
        carrier.start_role("run")
    carrier.wait_for(lambda: states(carrier) == {"unknown": 1}, "the reply to be given up")
    other, other_key = carrier.terminal("meter")
    carrier.smsc.answer_submits(lambda _: SubmitAnswer())
    assert carrier.say(other, f"K1:{other_key}") == OK
    carrier.wait_for(lambda: bool(told(carrier)), "the next reply")
    assert told(carrier) == [(other, f"K1:ok:{other_key}:meter".encode())]


def test_daemon_killed_again_and_again_tells_no_terminal_twice(carrier_with):
    carrier = carrier_with(bind="transceiver")
    terminals = [carrier.terminal("meter") for _ in range(12)]
    carrier.start_role("dispatch")
    role = carrier.start_role("intake")
    for number, (mdn, key) in enumerate(terminals):
        if number % 3 == 0:  # another's reply, killed before it leaves, would be given up
            carrier.wait_for(lambda before=number: carrier.smsc.counts.submits == before, "the replies before it")
        answer = carrier.smsc.send(mdn, f"K1:{key}")
        if number % 3 == 0:
            carrier.wait_for(lambda before=number: carrier.smsc.counts.submits > before, "its reply to leave")
            role.kill()
            role = carrier.start_role("intake")
        assert answer.result(30) == OK
    carrier.wait_for(
        lambda: sum(count for state, count in states(carrier).items() if state in ("sent", "unknown")) == 12,
        "every reply to end",
    )
    assert max(Counter(told(carrier)).values()) == 1
    assert carrier.smsc.counts.submits == 12


def test_terminals_are_told_nothing_where_the_link_does_not_say_so(tmp_path):
    with Carrier(tmp_path) as carrier:
        mdn, key = carrier.terminal("meter")
        carrier.start_role("run")
        assert carrier.say(mdn, f"K1:{key}") == OK
        carrier.settled()
        assert carrier.listing("replies", "list") == []
        assert carrier.smsc.counts.submits == 0
