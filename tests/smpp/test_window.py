from __future__ import annotations

from kmp_smsd.smpp.constants import CommandId
from kmp_smsd.smpp.window import Window


def test_requests_are_numbered_from_one():
    window = Window()
    assert [window.open(CommandId.ENQUIRE_LINK, 0.0) for _ in range(3)] == [1, 2, 3]


def test_numbers_go_round_at_the_largest_and_pass_over_what_is_outstanding():
    window = Window()
    assert window.open(CommandId.BIND_RECEIVER, 0.0) == 1
    window._last = 0x7FFFFFFE
    assert window.open(CommandId.ENQUIRE_LINK, 0.0) == 0x7FFFFFFF
    assert window.open(CommandId.ENQUIRE_LINK, 0.0) == 2


def test_an_answer_tells_when_its_request_was_sent_and_closes_it_once():
    window = Window()
    number = window.open(CommandId.UNBIND, 7.0)
    assert window.match(CommandId.UNBIND_RESP, number) == (CommandId.UNBIND, 7.0)
    assert window.match(CommandId.UNBIND_RESP, number) is None


def test_generic_nack_answers_any_request():
    window = Window()
    assert window.match(CommandId.GENERIC_NACK, window.open(CommandId.UNBIND, 0.0)) == (CommandId.UNBIND, 0.0)


def test_response_of_another_kind_or_number_answers_nothing():
    window = Window()
    number = window.open(CommandId.UNBIND, 0.0)
    assert window.match(CommandId.ENQUIRE_LINK_RESP, number) is None
    assert window.match(CommandId.UNBIND_RESP, number + 1) is None
    assert window.match(CommandId.UNBIND_RESP, number) == (CommandId.UNBIND, 0.0)


def test_request_without_an_answer_expires_alone():
    window = Window()
    window.open(CommandId.ENQUIRE_LINK, 0.0)
    late = window.open(CommandId.UNBIND, 5.0)
    assert window.expire(9.9, 10.0) == []
    assert window.expire(10.0, 10.0) == [(1, CommandId.ENQUIRE_LINK)]
    assert window.match(CommandId.UNBIND_RESP, late) == (CommandId.UNBIND, 5.0)
