"""When what was received is given to who decides, and what is known of that; the thread answers by hand."""

from __future__ import annotations

from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.service.settler import HUNG_S, SETTLE_MAX, Settler
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.received import Received


class At:
    """A settler; what it asks of who decides waits in `asked` until it is answered."""

    def __init__(self) -> None:
        self.elapsed_s = 100.0
        self.asked: deque[tuple[str, Any, Deferred[Any]]] = deque()
        self.busy = SimpleNamespace(stuck_s=0.0, waits_for_others=False)
        self.given_up = self.had_room = 0
        self.told: list[tuple[str, Any]] = []
        self._numbered = 1
        deciding: Any = SimpleNamespace(
            settle="settle", settle_again="settle_again", set_policy="set_policy", give_up=self._give_up
        )
        watch: Any = SimpleNamespace(
            settled=lambda took_s: self.told.append(("settled", took_s)),
            not_settled=lambda reason: self.told.append(("not_settled", reason)),
            settled_again=lambda: self.told.append(("settled_again", None)),
            not_settled_again=lambda reason: self.told.append(("not_settled_again", reason)),
        )
        thread: Any = self
        self.settler = Settler(
            deciding,
            thread,
            watch,
            has_room=self._has_room,
            monotonic=lambda: self.elapsed_s,
            wall=lambda: 5.0,
        )

    def run(self, call: str, *arguments: Any) -> Deferred[Any]:
        answer: Deferred[Any] = Deferred()
        self.asked.append((call, arguments[0], answer))
        return answer

    def answer(self, result: Any, after_s: float = 0.0) -> str:
        """Answer what was asked first; what that was."""
        self.elapsed_s += after_s
        call, _, answer = self.asked.popleft()
        answer.callback(Failure(result) if isinstance(result, Exception) else result)
        return call

    def take(self, count: int = 1) -> None:
        self.settler.take(Received("run", self._numbered, count, b""))
        self._numbered += count

    def _give_up(self) -> None:
        self.given_up += 1

    def _has_room(self) -> None:
        self.had_room += 1


@pytest.fixture
def at() -> At:
    return At()


@pytest.mark.parametrize(
    ("stuck_s", "waits_for_others", "given_up"), [(HUNG_S, False, 0), (HUNG_S + 1, False, 1), (HUNG_S + 1, True, 0)]
)
def test_who_decides_is_given_up_once_it_hangs_for_its_own_reasons(
    at: At, stuck_s: float, waits_for_others: bool, given_up: int
) -> None:
    at.busy.stuck_s, at.busy.waits_for_others = stuck_s, waits_for_others
    at.settler.look()
    assert at.given_up == given_up


def test_outcomes_are_counted_of_what_came_and_of_what_came_again(at: At) -> None:
    at.take(2)
    at.settler.look()
    assert at.answer([Outcome.BOUND, None], after_s=2.0) == "settle"
    assert at.answer(([Outcome.BOUND, Outcome.HELD], False)) == "settle_again"
    assert at.settler.outcomes == {Outcome.BOUND: 2, Outcome.HELD: 1}
    assert (at.settler.settled, at.settler.backlog, at.had_room) == (2, 0, 1)
    assert at.told == [("settled", 2.0), ("settled_again", None)]


def test_many_are_settled_at_once_and_few_wait_for_the_next_look(at: At) -> None:
    at.take(SETTLE_MAX - 1)
    assert not at.asked
    at.take()
    assert [call for call, *_ in at.asked] == ["settle"]
    at.take(SETTLE_MAX)
    at.take(SETTLE_MAX - 1)
    at.answer([None] * SETTLE_MAX)
    assert at.asked[0][1] == [Received("run", SETTLE_MAX + 1, SETTLE_MAX, b"")]
    at.answer([None] * SETTLE_MAX)
    assert not at.asked


def test_messages_that_were_left_with_their_smsc_are_told_of_unless_a_failure_is(at: At) -> None:
    late = ("not_settled", "1 messages wait to be settled, and others were left with their SMSC")
    at.take()
    at.settler.late()
    at.settler.look()
    at.answer(StoreUnavailable("disk full"))
    at.settler.late()
    assert at.told == [late, ("not_settled", "disk full")]
    at.settler.settle_all()
    at.answer(([], False))
    at.answer([None])
    at.take()
    at.settler.late()
    assert at.told[-1] == late


def test_backlog_is_settled_once_what_is_under_way_is(at: At) -> None:
    at.take()
    at.settler.look()
    at.take()
    settled: list[None] = []
    at.settler.settle_all().addCallback(settled.append)
    assert at.answer([None]) == "settle"
    assert not settled
    at.answer(([], False))
    assert at.answer([None]) == "settle"
    assert settled == [None]


@pytest.mark.parametrize(("more", "stopped", "looks"), [(True, False, 1), (True, True, 0), (False, False, 0)])
def test_there_is_another_look_where_more_was_marked_and_it_was_not_stopped(
    at: At, more: bool, stopped: bool, looks: int
) -> None:
    at.settler.look()
    if stopped:
        at.settler.stop()
    at.answer(([], more))
    assert len(at.asked) == looks


def test_policy_that_cannot_be_told_is_a_fault_of_ours_unless_the_store_is_away(
    at: At, events: list[dict[str, Any]]
) -> None:
    for error in (StoreUnavailable("disk full"), RuntimeError("a fault of ours")):
        at.settler.decide_by(SyncPolicy())
        assert at.answer(error) == "set_policy"
    assert [event["event"] for event in events] == ["store_unavailable", "policy_not_told"]
