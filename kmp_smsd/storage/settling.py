"""Intake's transaction: one batch of messages becomes journal, bindings and outbox, or nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from kmp_smsd.domain.decide import decide
from kmp_smsd.domain.facts import Binding, Decision
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage.again import any_again, read_again, settle_faulty_again, unknown_gateway
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import StoreUnavailable
from kmp_smsd.storage.gathering import Batch, gather
from kmp_smsd.storage.holding import write_holds
from kmp_smsd.storage.journal import Journal
from kmp_smsd.storage.received import Message, Place, Settled
from kmp_smsd.storage.replying import write_replies
from kmp_smsd.storage.rows import write_rows
from kmp_smsd.storage.submissions import answer_submissions
from kmp_smsd.storage.waiting import write_waiting
from kmp_smsd.storage.wanting import Want, want

log = logging.getLogger(__name__)

AGAIN_MAX = 500  # requests that come again in one transaction
RANGES_MAX = 100_000  # of settled messages that are remembered: a start begins one, and so does a failed write

_BIND = """
INSERT INTO bindings (id, key, subscriber, app, state, received_at, bound_at, ended_at, why) VALUES {rows}"""


class Settling:
    """Settles messages on one connection. `settle` is the only way in which a message changes anything."""

    def __init__(self, database: Database, policy: SyncPolicy, journal: Journal) -> None:
        self._database = database
        self._policy = policy
        self._journal = journal
        self._unknown_gateways: set[str] = set()  # that were told of

    def set_policy(self, policy: SyncPolicy) -> None:
        """Decide by `policy` from the next batch on."""
        self._policy = policy
        self._unknown_gateways.clear()

    def settle(self, messages: Sequence[Message], now: int, last: Place | None = None) -> list[Outcome | None]:
        """Decide and write `messages` in order, in one transaction; `now` in Unix milliseconds.

        `last` is the place of the last of them in the inbox, where they lie in it: `settled` has them from then on, and
        those that it has already are left out (None). So nothing is settled twice, whoever tries it again.

        A message that cannot be settled for a reason of its own ends as ERROR and takes no neighbour with it. Raises
        StoreUnavailable; some of them may be settled nevertheless.
        """
        try:
            return self._settle(lambda: messages, now, last)
        except (StoreUnavailable, MemoryError):  # which may come when all is committed
            raise
        except Exception:  # one message's own fault: halve until it stands alone
            if len(messages) == 1:
                return self._settle_alone(messages[0], now, last)
            half = len(messages) // 2
            middle = None if last is None else Place(last.run, last.number - (len(messages) - half))
            return self.settle(messages[:half], now, middle) + self.settle(messages[half:], now, last)

    def settled(self) -> Settled:
        """What of the inbox is settled, on the disk for certain: it is synced here. Raises StoreUnavailable."""
        settled = self.settled_as_seen()
        self._sync()
        return settled

    def settled_as_seen(self) -> Settled:
        """The same for who only looks: a power cut may take back the last of it. Raises StoreUnavailable."""
        return Settled.of(self._database.rows("SELECT run, first, last FROM inbox_settled"))

    def _sync(self) -> None:
        """Have on the disk what was seen: its commit may be one that was killed before its sync."""
        with self._database.faults():
            sync(self._database.log_path)

    def settle_again(self, now: int, limit: int = AGAIN_MAX) -> list[Outcome]:
        """Decide once more, in one transaction, up to `limit` requests that are marked; what became of each.

        They are read in the transaction that answers them: nothing that a message or a person changed is undone.
        """
        gateways = self._policy.gateways
        self._tell_of_unknown_gateway(gateways)
        if not any_again(self._database, now, gateways):
            return []
        again: list[SyncRequest] = []

        def read() -> list[SyncRequest]:
            again.extend(read_again(self._database, now, limit, gateways))
            return again

        try:
            return _decided(self._settle(read, now))
        except (StoreUnavailable, MemoryError):
            raise
        except Exception:  # one request's own fault: fewer at a time, until it stands alone
            if not again:
                raise  # not even reading is possible
            if len(again) > 1:
                return self.settle_again(now, len(again) // 2)
            return _decided(
                self._settle_faulty(again[0], now, stands=lambda: read_again(self._database, now, 1, gateways) == again)
            )

    def _tell_of_unknown_gateway(self, gateways: Iterable[str]) -> None:
        """Once for each: by our own policy we might allow what its own, which we have not read, refuses."""
        gateway = unknown_gateway(self._database, [*gateways, *self._unknown_gateways])
        if gateway is not None:
            self._unknown_gateways.add(gateway)
            log.warning(
                "gateway %s is not in the configuration that intake read last: its requests wait for a reload",
                gateway,
                extra={"event": "gateway_unknown", "gateway": gateway},
            )

    def _settle(
        self, messages_of: Callable[[], Sequence[Message]], now: int, last: Place | None = None
    ) -> list[Outcome | None]:
        with self._database.transaction() as connection:
            messages = messages_of()
            known = _settled_among(connection, len(messages), last)
            left = (
                [message for position, message in enumerate(messages) if position not in known] if known else messages
            )
            batch = gather(self._database, self._policy, left, now)
            facts = batch.facts
            decisions = [facts.apply(decide(one, facts)) if isinstance(one, SyncRequest) else one for one in left]
            self._write(connection, batch, decisions)
            _remember(connection, len(messages), last, some_known=bool(known))
        self._journal.commit()
        outcomes: list[Outcome | None] = [decision.outcome for decision in decisions]
        if not known:
            return outcomes
        self._sync()
        rest = iter(outcomes)
        return [None if position in known else next(rest) for position in range(len(messages))]

    def _settle_alone(self, message: Message, now: int, last: Place | None) -> list[Outcome | None]:
        """End `message` as ERROR, and where not even that can be written, as one that names nobody.

        Others wait behind it. Where that cannot be written either, it is not this message: nothing is passed over.
        """

        def stands() -> bool:
            return not _settled_among(self._database.connection, 1, last)

        try:
            return self._settle_faulty(message, now, last, stands=stands)
        except (StoreUnavailable, MemoryError):
            raise
        except Exception:  # what the message has may be at fault for that, too
            nameless = Unfit(outcome=Outcome.ERROR, received_at=now, link=message.link)
            return self._settle_faulty(nameless, now, last, stands=stands)

    def _settle_faulty(
        self, message: Message, now: int, last: Place | None = None, *, stands: Callable[[], bool]
    ) -> list[Outcome | None]:
        """End `message` as ERROR, unless it no longer `stands`: then it is not the one that could not be settled."""
        log.exception("message could not be settled", extra={"event": "message_error", "link": message.link})
        faulty = Unfit(outcome=Outcome.ERROR, mdn=message.mdn, received_at=message.received_at, link=message.link)
        with self._database.transaction() as connection:
            stood = stands()
            if stood:
                self._write(connection, gather(self._database, self._policy, [faulty], now), [faulty])
                if isinstance(message, SyncRequest):
                    settle_faulty_again(connection, message, now)
                _remember(connection, 1, last)
        if not stood:
            self._sync()
            return [None]
        self._journal.commit()
        return [Outcome.ERROR]

    def _write(self, connection: Any, batch: Batch, decisions: Sequence[Decision | Unfit]) -> None:
        """Write the net effect: ended bindings first, then new ones, the last wanted per MDN + app."""
        facts = batch.facts
        if facts.ended:
            connection.executemany(
                "UPDATE bindings SET state = 'superseded', ended_at = ?, why = 'superseded' WHERE id = ?",
                [(facts.now, binding.number) for binding in facts.ended],
            )
        write_rows(connection, _BIND, [_row(binding, facts.now) for binding in facts.made])
        if batch.rejected:
            for decision in decisions:
                binding = batch.to_be_offered_again(decision)
                if binding is not None:
                    facts.wanted.setdefault(binding.place, binding.key)
        want(connection, [Want(*place, key) for place, key in facts.wanted.items()], facts.now, batch.routes)
        new_holds = write_holds(connection, facts, batch.holds, decisions)
        self._journal.record(connection, facts, decisions, new_holds)
        write_waiting(connection, facts, batch.waiters, decisions)
        answer_submissions(connection, decisions)
        write_replies(connection, facts, decisions)


def _decided(outcomes: Iterable[Outcome | None]) -> list[Outcome]:
    return [outcome for outcome in outcomes if outcome is not None]


def _settled_among(connection: Any, count: int, last: Place | None) -> set[int]:
    """Which of so many messages of the inbox, up to `last`, are settled: their positions."""
    if last is None:
        return set()
    first = last.number - count + 1
    ranges = connection.execute(
        "SELECT first, last FROM inbox_settled WHERE run = ? AND last >= ? AND first <= ?",
        (last.run, first, last.number),
    )
    return {number - first for begin, end in ranges for number in range(max(begin, first), min(end, last.number) + 1)}


def _remember(connection: Any, count: int, last: Place | None, *, some_known: bool = False) -> None:
    """That so many messages of the inbox are settled, up to `last`; whether some of them were before."""
    if last is None:
        return
    run, end = last
    begin = end - count + 1
    if some_known:
        ranges = connection.execute(
            "DELETE FROM inbox_settled WHERE run = ? AND last >= ? AND first <= ? RETURNING first, last",
            (run, begin - 1, end + 1),
        ).fetchall()
        begin, end = min(begin, *(first for first, _ in ranges)), max(end, *(last for _, last in ranges))
    else:
        follows = connection.execute(
            "UPDATE inbox_settled SET last = ? WHERE run = ? AND last = ?", (end, run, begin - 1)
        )
        if follows.rowcount:
            return
    connection.execute("INSERT INTO inbox_settled (run, first, last) VALUES (?, ?, ?)", (run, begin, end))
    connection.execute("DELETE FROM inbox_settled WHERE id <= (SELECT max(id) FROM inbox_settled) - ?", (RANGES_MAX,))


def _row(made: Binding, now: int) -> tuple[Any, ...]:
    """As `_BIND` wants it: a binding that the same batch made and ended never stood."""
    how = (
        ("superseded", made.received_at, now, now, "superseded")
        if made.ended
        else ("bound", made.received_at, now, None, None)
    )
    return (made.number, made.key, made.subscriber, made.app_id, *how)
