"""What an answer promises, which one each outcome gets, and which messages share a batch."""

from __future__ import annotations

import pytest

from kmp_smsd.domain.outcome import Outcome
from tests.service.by_hand import MDN, SmscByHand, alarms, link, mo
from tests.service.intake.stage import NEVER, NOW_S, OK, OTHER, in_inbox
from tests.storage.stock import bound, counted, import_keys, register

# Answers, and what they promise


def test_nothing_is_answered_before_it_is_on_the_disk(at):
    smsc = SmscByHand()
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    at.intake.messages(smsc, (mo(),))
    at.reactor.advance(0.05)
    assert smsc.writes == []
    seen = []
    smsc.answer = lambda pairs: seen.append(([one.mdn for one in in_inbox(at)], [status for _, status in pairs]))
    at.run()
    assert seen == [([MDN], [OK])]
    assert bound(at.store) == {(MDN, "meter"): "KEY-1"}


def test_messages_are_answered_though_somebody_else_writes_to_the_database(at):
    smsc = SmscByHand()
    with at.store._database.transaction():
        at.intake.messages(smsc, (mo(1), mo(2, text="hello")))
        at.receive_one()
        assert smsc.statuses() == [(1, OK), (2, NEVER)]
    at.run()
    assert counted(at.store) == {"not_registered": 1, "malformed": 1}


@pytest.mark.parametrize(
    ("message", "outcome", "status"),
    [
        (mo(esm_class=4), Outcome.RECEIPT, OK),
        (mo(destination_addr="1"), Outcome.NOT_FOR_US, NEVER),
        (mo(source_addr="bank"), Outcome.INVALID_MDN, NEVER),
        (mo(text="hello"), Outcome.MALFORMED, NEVER),
        (mo(source_addr=OTHER), Outcome.NOT_REGISTERED, OK),
        (mo(text="K1:UNKNOWN"), Outcome.UNKNOWN_KEY, OK),
        (mo(text="K1:KEY-1:alarm"), Outcome.APP_NOT_REGISTERED, OK),
        (mo(), Outcome.BOUND, OK),
    ],
)
def test_status_fits_the_outcome(start, message, outcome, status):
    at = start(sync={"short_codes": ("10690001",)}, north=link(), quiet=link(never_status=0))
    import_keys(at.store, "KEY-1")
    register(at.store, MDN, "meter")
    north, quiet = SmscByHand("north"), SmscByHand("quiet")
    at.intake.messages(north, (message,))
    at.run()
    assert counted(at.store) == {outcome: 1}
    at.intake.messages(quiet, (message,))
    at.run()
    assert (north.statuses(), quiet.statuses()) == ([(1, status)], [(1, OK)])


def test_message_whose_own_fault_it_is_never_comes_back(at, monkeypatch, events):
    """Reading chokes on one of three: the others are read, bound and answered as if it were not there."""
    reader = at.intake._admission.terms["north"].reader
    read = reader.read

    def choke(message, received_at):
        if message.sequence_number == 2:
            raise ValueError("a fault of ours")
        return read(message, received_at)

    monkeypatch.setattr(reader, "read", choke)
    smsc = SmscByHand()
    at.intake.messages(smsc, (mo(1), mo(2), mo(3)))
    at.run()
    assert smsc.statuses() == [(1, OK), (2, NEVER), (3, OK)]
    assert counted(at.store) == {"not_registered": 2, "error": 1}
    assert len(alarms(events)) == 1
    assert "KEY-1" not in str(alarms(events))


def test_answers_for_one_connection_leave_in_one_write(at):
    one, two = SmscByHand(), SmscByHand()
    at.intake.messages(one, (mo(1),))
    at.intake.messages(one, (mo(2), mo(3)))
    at.intake.messages(two, (mo(4),))
    at.intake.messages(one, (mo(5),))
    at.receive_one()
    assert [len(write) for write in one.writes] == [1]
    at.receive_one()
    assert [len(write) for write in one.writes] == [1, 3]
    assert one.statuses() == [(1, OK), (2, OK), (3, OK), (5, OK)]
    assert two.statuses() == [(4, OK)]


def test_messages_of_one_batch_get_each_its_own_answer(at):
    one, two = SmscByHand(), SmscByHand()
    at.intake.messages(one, (mo(1),))
    for smsc, text in ((one, "hello"), (two, "K1:KEY-1"), (one, "K1:KEY-1"), (two, "hello")):
        at.intake.messages(smsc, (mo(2, text), mo(3)))
    at.run()
    assert [len(batch) for batch in at.batches] == [1, 8]
    assert one.statuses() == [(1, OK), (2, NEVER), (3, OK), (2, OK), (3, OK)]
    assert two.statuses() == [(2, OK), (3, OK), (2, NEVER), (3, OK)]


def test_request_knows_when_and_by_which_link_it_came(start):
    at = start(north=link(), south=link())
    at.reactor.advance(5)
    at.intake.messages(SmscByHand("south"), (mo(),))
    at.reactor.advance(1)
    at.run()
    (request,) = at.batches[0]
    assert (request.link, request.received_at) == ("south", int(NOW_S * 1000) + 5000)
    assert at.store.journal.listing(limit=1)[0]["at"] == int(NOW_S * 1000) + 6000  # when it was settled


# Group commit


def test_what_arrives_while_a_batch_is_committed_is_the_next_batch(at):
    smsc = SmscByHand()
    for number in range(1, 5):
        at.intake.messages(smsc, (mo(number),))
    at.receive_one()
    at.intake.messages(smsc, (mo(5),))
    at.run()
    assert [len(batch) for batch in at.batches] == [1, 3, 1]
    assert [number for number, _ in smsc.statuses()] == [1, 2, 3, 4, 5]


def test_batch_has_at_most_so_many_messages(start):
    at = start(sync={"batch_max": 3})
    smsc = SmscByHand()
    at.intake.messages(smsc, tuple(mo(number) for number in range(8)))
    at.intake.messages(smsc, (mo(8),))
    at.intake.messages(smsc, (mo(9), mo(10)))
    at.run()
    assert [len(batch) for batch in at.batches] == [3, 3, 3, 2]  # the third: two, and the one that fits
    assert sorted(smsc.statuses()) == [(number, OK) for number in range(11)]


def test_one_batch_at_a_time(at):
    for number in range(3):
        at.intake.messages(SmscByHand(), (mo(number),))
    assert at.pool.waiting().count(at.inbox.append) == 1
