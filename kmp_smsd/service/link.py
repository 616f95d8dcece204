"""A link to one SMSC: which host, which bind, and the patience between the tries."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from twisted.application.service import Service
from twisted.internet.base import DelayedCall
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger

from kmp_smsd.config.link import Link
from kmp_smsd.service.backoff import Backoff
from kmp_smsd.service.binds import BIND_COMMANDS, BUSY, WRONG_ACCOUNT, minds_the_mode, session_settings
from kmp_smsd.service.connection import ConnectionFactory, LinkConnection, Receiver, Told
from kmp_smsd.service.link_state import BOUND_WORDS, LinkState, LinkWord, Traffic
from kmp_smsd.service.tracing import Trace
from kmp_smsd.smpp.constants import CommandId, CommandStatus, name_of
from kmp_smsd.smpp.events import BindRefused, BindUnanswered
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.smpp.submit import SubmitSm

_NAMED = frozenset(CommandStatus)


class SmscLink(Service):
    """Keeps one link bound, for ever: reconnects with back-off, over all hosts, until it is drained.

    `link` is its `[smsc.NAME]` section. Raises ValueError where the password does not fit into a bind.
    `receiver_of_pair` is given to the transmitter of a pair: it goes to the host of that link, which lives without it.
    `reactor` has TCP and time. `monotonic` is the clock of the session's timers, which a change of the wall clock must
    not move, `wall` that of what people see; `jitter` gives numbers from 0 to 1.
    """

    name: str

    def __init__(
        self,
        name: str,
        link: Link,
        password: str,
        receiver: Receiver,
        reactor: Any,
        *,
        receiver_of_pair: SmscLink | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.options = link
        self.receiver = receiver
        self.reactor = reactor
        self.monotonic, self.wall = monotonic, wall
        self.log = Logger()
        self.trace = Trace(name, reactor, monotonic)
        commands = BIND_COMMANDS[link.bind] if receiver_of_pair is None else (CommandId.BIND_TRANSMITTER,)
        self._sessions = [session_settings(link, password, command_id) for command_id in commands]
        self._receiver_of_pair = receiver_of_pair
        self._transmitter_of_pair: SmscLink | None = None
        if receiver_of_pair is not None:
            receiver_of_pair._transmitter_of_pair = self
        self._mode = 0
        self._host = 0
        self._backoff = Backoff(link.reconnect_min_s, link.reconnect_max_s, jitter)
        self._connector: Any = None
        self._connection: LinkConnection | None = None
        self._retry: DelayedCall | None = None
        self._draining = False
        self._halted = False
        self._tried = False
        self._answers: Counter[int] = Counter()
        self._told_no_replies = False
        self._waiters: list[Deferred[None]] = []  # one for each call of drain
        self._state = LinkState(name=name, word=LinkWord.STOPPED, since=wall())

    @property
    def state(self) -> LinkState:
        """A snapshot for `status`."""
        rtt_s = None if self._connection is None else self._connection.enquire_rtt_s
        return replace(self._state, enquire_rtt_s=rtt_s, traffic=replace(self.traffic))

    @property
    def traffic(self) -> Traffic:
        """What is counted in place."""
        return self._state.traffic

    @property
    def password(self) -> str:
        """What it binds with. Never shown."""
        return self._sessions[0].bind.password

    @property
    def answers(self) -> dict[str, int]:
        """How many messages were answered with each command_status, by its name."""
        return {_label(status): count for status, count in sorted(self._answers.items())}

    def count_answers(self, pairs: Iterable[tuple[Message, int]]) -> None:
        """Count what messages are answered with."""
        self._answers.update([status for _, status in pairs])

    def succeed(self, before: SmscLink) -> None:
        """Go on counting where the link of this name left off, which had other options."""
        old = before.state
        self._answers = before._answers
        self._tried = before._tried
        self.note(
            binds=old.binds,
            bind_failures=old.bind_failures,
            reconnects=old.reconnects,
            traffic=replace(before.traffic, last_received_at=None, last_sent_at=None),
        )

    @property
    def can_submit(self) -> bool:
        """Whether `submit` sends something now. Of a pair both must be bound."""
        if self._transmitter_of_pair is not None:
            return self._state.word is LinkWord.BOUND_RECEIVER and self._transmitter_of_pair.can_submit
        return self._connection is not None and self._connection.can_submit

    def submit(self, submit_sm: SubmitSm, told: Told) -> bool:
        """Send `submit_sm`, of a pair by the transmitter; see LinkConnection.submit."""
        connection = (self._transmitter_of_pair or self)._connection
        return connection is not None and self.can_submit and connection.submit(submit_sm, told)

    def startService(self) -> None:
        """Begin to connect, unless the link was halted."""
        super().startService()
        self._go()

    def stopService(self) -> Deferred[None]:
        """Drain, see there."""
        super().stopService()
        return self.drain()

    def drain(self) -> Deferred[None]:
        """End the link in good order; fires when its connection is closed.

        New messages get the temporary status. What the receiver has in hand is still answered, then we unbind and go
        on reading and answering until the SMSC agrees or `unbind_timeout_s` have passed.
        """
        if self._state.word is LinkWord.STOPPED:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiters.append(waiter)
        self._draining = True
        if self._connection is not None:
            self._connection.finish(self.options.unbind_timeout_s)
        elif self._connector is not None:
            self._connector.stopConnecting()
        elif self._retry is not None:
            self._retry.cancel()
            self._stopped()
        return waiter

    def halt(self) -> Deferred[None]:
        """Drain, and stay so until `go_on`, whoever starts the service meanwhile."""
        self._halted = True
        return self.drain()

    def go_on(self) -> None:
        """Connect again after `halt`; as soon as it has drained, where it has not yet."""
        if self._halted:
            self._halted = False
            self.drain().addCallback(lambda _: self._go())

    def _go(self) -> None:
        if self.running and not self._halted and self._state.word is LinkWord.STOPPED:
            self._draining = False
            self._connect()

    def back_off(self) -> None:
        """Unbind, and bind again later: until then the SMSC stores what we cannot."""
        if self._connection is not None:
            self.log.warn("link {link}: unbinding to let the SMSC store", event="link_backs_off", link=self.name)
            self._connection.finish(self.options.unbind_timeout_s)

    def note(self, **changes: Any) -> None:
        """Change the snapshot; a new `word` also changes `since`, and ends a wait; an error has its time."""
        if changes.get("word", self._state.word) is not self._state.word:
            changes = {"since": self.wall(), "next_try_at": None, **changes}
        if changes.get("last_error"):
            changes["last_error_at"] = self.wall()
        self._state = replace(self._state, **changes)

    def connected(self, connection: LinkConnection) -> None:
        """A connection was made."""
        self._connector = None
        self._connection = connection
        self.note(word=LinkWord.BINDING)

    def bound(self, command_id: CommandId) -> None:
        """The SMSC accepted this bind."""
        self.note(word=BOUND_WORDS[command_id], binds=self._state.binds + 1, last_error="")
        self._keep_pair_together()
        if self.options.reply != "never" and self.options.bind == "auto":
            if command_id is CommandId.BIND_RECEIVER and not self._told_no_replies:
                self.log.warn(
                    "link {link}: bound as a receiver, so terminals get no replies by it: they wait until they expire",
                    event="link_takes_no_replies",
                    link=self.name,
                )
            self._told_no_replies = command_id is CommandId.BIND_RECEIVER

    def _keep_pair_together(self) -> None:
        """Have the transmitter of a pair follow where the receiver is bound at another host."""
        receiver, transmitter = self._receiver_of_pair or self, self._transmitter_of_pair or self
        if (
            receiver.state.word is LinkWord.BOUND_RECEIVER
            and transmitter.state.word is LinkWord.BOUND_TRANSMITTER
            and receiver.state.peer != transmitter.state.peer
            and transmitter._connection is not None
        ):
            transmitter._connection.finish(self.options.unbind_timeout_s)

    def unbinding(self) -> None:
        """One side asked to end the session."""
        self.note(word=LinkWord.UNBINDING)

    def not_connected(self, reason: str) -> None:
        """No connection could be made."""
        self._connector = None
        self._host += 1
        self._try_later(reason, 0.0)

    def disconnected(self, connection: LinkConnection) -> None:
        """The connection that was ours is gone."""
        self._connection = None
        wait_s = 0.0
        if connection.bound_for_s is None:
            wait_s = self._after_failed_bind(connection.bind_failure)
        elif connection.bound_for_s >= self.options.stable_after_s:
            self._mode = 0  # what refused a transceiver once may be long gone
            if not connection.finishing:
                self._backoff.reset()
        self._try_later(connection.ended_because, wait_s)

    def _after_failed_bind(self, failure: BindRefused | BindUnanswered | None) -> float:
        """Choose mode and host of the next try; return the shortest wait before it. None: the connection was lost.

        Only an SMSC that minds the mode, or is silent about it, is tried in the next one: a lost connection says
        nothing. The next host begins with the first mode.
        """
        status = failure.command_status if isinstance(failure, BindRefused) else None
        if failure is not None:
            why = "unanswered" if status is None else _label(status)
            failures = self._state.bind_failures
            self.note(bind_failures={**failures, why: failures.get(why, 0) + 1})
        if status in WRONG_ACCOUNT:
            self.log.error(
                "link {link}: the SMSC refuses this account with {status}; check system_id, password and system_type",
                event="link_account_refused",
                link=self.name,
                status=name_of(status or 0),
            )
            return self.options.reconnect_refused_s
        if status == CommandStatus.ESME_RALYBND:
            return self.options.reconnect_already_bound_s
        if status in BUSY:
            self._host += 1
            return 0.0
        self._mode = (self._mode + 1) % len(self._sessions) if minds_the_mode(failure) else 0
        if self._mode == 0:
            self._host += 1
        return self.options.reconnect_already_bound_s if status == CommandStatus.ESME_RBINDFAIL else 0.0

    def _connect(self) -> None:
        self._retry = None
        options = self.options
        host = options.hosts[(self._receiver_of_pair or self)._host % len(options.hosts)]
        self.note(
            word=LinkWord.CONNECTING, peer=str(host), reconnects=self._state.reconnects + (1 if self._tried else 0)
        )
        self._tried = True
        factory = ConnectionFactory(self, self._sessions[self._mode])
        bind_address = (options.local_address, 0) if options.local_address else None
        self._connector = self.reactor.connectTCP(
            host.name, host.port, factory, timeout=options.connect_timeout_s, bindAddress=bind_address
        )

    def _try_later(self, reason: str, at_least_s: float) -> None:
        if self._draining:
            self._stopped()
            return
        wait_s = self._backoff.next_s(at_least_s)
        self.note(word=LinkWord.WAITING, last_error=reason, next_try_at=self.wall() + wait_s)
        self.log.warn(
            "link {link}: {reason}; next try in {wait_s:.1f} s",
            event="link_down",
            link=self.name,
            reason=reason,
            wait_s=wait_s,
        )
        self._retry = self.reactor.callLater(wait_s, self._connect)

    def _stopped(self) -> None:
        self.note(word=LinkWord.STOPPED)
        self.trace.end("the link has stopped")
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)


def _label(status: int) -> str:
    """``ESME_RINVPASWD``; ``0x00000400`` where SMPP has no name for it."""
    return CommandStatus(status).name if status in _NAMED else f"0x{status:08X}"
