"""What both roles have in common: a state, a beat, and what a person on this machine may tell them."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred

from kmp_smsd import __version__
from kmp_smsd.config.load import Config
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.service.log_levels import LogLevels
from kmp_smsd.service.pulse import Pulse
from kmp_smsd.service.status import ConfigurationStatus, Snapshot, State, StoreStatus, ms
from kmp_smsd.service.store_watch import StoreWatch


class Role(StrEnum):
    """What a process does. Each role touches only its own secrets."""

    INTAKE = "intake"
    DISPATCH = "dispatch"


class UnknownName(Exception):
    """No link or platform of this name runs; the text says which is close."""

    def __init__(self, what: str, name: str, known: Collection[str]) -> None:
        super().__init__(f"no {what} '{name}' runs{did_you_mean(name, known)}")


class NotAtRest(Exception):
    """The role takes nothing new, but something is not ended; the text says what."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """A configuration that can be put in force.

    `apply` does it, and its Deferred fires when all has settled; `also` is what changes beside the options.
    """

    apply: Callable[[], Deferred[Any]]
    also: tuple[str, ...] = ()


class RoleService(MultiService, ABC):
    """One role of this process. `reactor` is its clock; `wall` that of what people see, in Unix seconds."""

    role: Role

    def __init__(
        self,
        config: Config,
        reactor: Any,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        super().__init__()
        self.config = config
        self.pulse = Pulse(self._beat, reactor, monotonic=monotonic)
        self._monotonic, self._wall = monotonic, wall
        self._started_at = wall()
        self._draining = self._stopping = False

    def startService(self) -> None:
        super().startService()
        self.pulse.start()

    @property
    def state(self) -> State:
        if self._stopping:
            return State.STOPPING
        return State.DRAINING if self._draining else State.RUNNING

    @property
    def links_end_within_s(self) -> float:
        """How long its links may take to end in good order; 0 where it has none."""
        return 0.0

    @abstractmethod
    def prepare(self, config: Config) -> Prepared:
        """Make what `config` needs, and change nothing yet; in a thread, since it reads secrets.

        Raises SecretUnavailable or NothingToDo where that is not possible.
        """

    @abstractmethod
    def drain(self) -> Deferred[Any]:
        """Take nothing new until `go_on`; fires when what was in flight has ended, which takes seconds.

        It fails with NotAtRest where something cannot be ended now.
        """

    @abstractmethod
    def go_on(self) -> None:
        """Work again after `drain`."""

    @abstractmethod
    def pause(self, name: str) -> None:
        """Let one link or platform rest until `resume`. Raises UnknownName."""

    @abstractmethod
    def resume(self, name: str) -> None:
        """Use it again. Raises UnknownName."""

    def trace(self, name: str, minutes: float) -> None:  # noqa: ARG002  # a role that has links has one to trace
        """Log each PDU of a link for so many minutes, at 0 none any more. Raises UnknownName."""
        raise UnknownName("link", name, ())

    @abstractmethod
    def snapshot(self, configuration: ConfigurationStatus, log_levels: LogLevels) -> Snapshot:
        """How this role is now. Waits for nobody."""

    def _beat(self) -> None:
        """What is done every second."""

    def _head(self, configuration: ConfigurationStatus, log_levels: LogLevels, store: StoreWatch) -> dict[str, Any]:
        """The fields of a snapshot that every role has."""
        figures = store.figures
        known = {} if figures is None else {name: getattr(figures, name) for name in figures.__slots__}
        return {
            "role": self.role.value,
            "pid": os.getpid(),
            "version": __version__,
            "started_at": ms(self._started_at),
            "state": self.state.value,
            "configuration": configuration,
            "store": StoreStatus(
                path=str(self.config.storage.path),
                **known,
                read_at=ms(store.read_at),
                last_write_at=ms(store.last_write_at),
                last_write_s=round(store.last_write_s, 6),
                stuck_s=round(store.stuck_s, 3),
                silent_s=round(store.silent_s, 3),
                waits_for_others=store.waits_for_others,
                lock_holder=store.lock_holder,
                error=store.error,
            ),
            "reactor_lag_s": round(self.pulse.lag_s, 3),
            "log_levels": log_levels.set_by_hand,
        }
