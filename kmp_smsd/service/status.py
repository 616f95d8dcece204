"""How a role is: one frozen value, made in the reactor's thread without waiting for anybody.

Times are Unix milliseconds, None for never. What is counted is counted since the role's start, unless it is read from
the store. Rates are per second. docs/operations.rst tells what each field means; new versions only add fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigurationStatus:
    """What is in force, and what the files on disk would change."""

    path: str
    loaded_at: int
    differs: bool = False
    differences: tuple[str, ...] = ()  # "[sync] mdn_burst", or what makes the files unusable
    faulty: bool = False  # they are unusable: a start would fail
    last_reload_at: int | None = None
    last_reload_ok: bool | None = None
    last_reload_error: str | None = None
    refusal_stands: bool = False  # the last reload was refused, and as far as we know another would do something
    needs_restart: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreStatus:
    """The database, as the role's own thread saw it at `read_at`. `silent_s`: for how long it has said nothing.

    `waits_for_others`: that thread waits for the write lock of another process. `lock_holder`: that process, where any
    thread has waited for some seconds.
    """

    path: str
    schema: int = 0
    octets: int = 0
    log_octets: int = 0
    journal_head: int = 0
    read_at: int | None = None
    last_write_at: int | None = None
    last_write_s: float = 0.0
    stuck_s: float = 0.0
    silent_s: float = 0.0
    waits_for_others: bool = False
    lock_holder: str | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkStatus:
    """One connection to an SMSC; a pair has two."""

    name: str
    word: str
    bound: bool
    paused: bool
    since: int
    peer: str
    last_received_at: int | None
    last_sent_at: int | None
    last_message_at: int | None
    enquire_rtt_s: float | None
    binds: int
    bind_failures: Mapping[str, int]
    reconnects: int
    messages: int
    answers: Mapping[str, int]
    rates: Mapping[str, float]
    in_flight: int
    in_flight_max: int
    throttled: int
    bad_pdus: int
    last_error: str
    last_error_at: int | None
    next_try_at: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlatformStatus:
    """One platform. `due`, `oldest_due_at` and `rejected` are read from the store.

    `due_more` and `rejected_more`: there is more, which was not counted. `certificate_left_s`: for how long ours is
    valid, below 0 since when it is not; None where it is not known, or the platform does not know us by one.
    """

    name: str
    word: str
    paused: bool
    since: int
    apps: tuple[str, ...]
    due: int
    due_more: bool
    oldest_due_at: int | None
    rejected: int
    rejected_more: bool
    confirmed: int
    rejections: int
    postponed: int
    failures: int
    rates: Mapping[str, float]
    push_s: Mapping[str, float]
    last_success_at: int | None
    last_error: str | None
    last_error_at: int | None
    next_try_at: int | None
    certificate_left_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """One role."""

    role: str
    pid: int
    version: str
    started_at: int
    state: str  # one of State
    configuration: ConfigurationStatus
    store: StoreStatus
    reactor_lag_s: float
    log_levels: Mapping[str, str] = field(default_factory=dict)  # those that a person has set
    links: tuple[LinkStatus, ...] = ()
    outcomes: Mapping[str, int] = field(default_factory=dict)
    unsettled: int = 0  # messages that were answered and are not decided yet
    platforms: tuple[PlatformStatus, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """For ``status --json``: intake has links, dispatch has platforms."""
        values = {"v": VERSION, **asdict(self)}
        for name in ("platforms",) if self.role == "intake" else ("links", "outcomes", "unsettled"):
            del values[name]
        return values


class State(StrEnum):
    """How a role is, in a word."""

    RUNNING = "running"
    DRAINING = "draining"
    STOPPING = "stopping"


class PlatformWord(StrEnum):
    """How a platform is served, in a word."""

    IDLE = "idle"
    DELIVERING = "delivering"
    WAITING = "waiting"  # something is due, and its time has not come
    PAUSED = "paused"  # by a person
    HELD_BACK = "held back after rejections"
    DRAINING = "draining"
    DRAINED = "drained"
    UNSERVED = "without an enabled file"  # and something is due, or was rejected, there


def ms(seconds: float | None) -> int | None:
    """Unix milliseconds."""
    return None if seconds is None else int(seconds * 1000)
