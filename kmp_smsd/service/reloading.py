"""Reload: everything is read and made first; only then is it put in force, in all roles of this process or in none."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, ensureDeferred, gatherResults
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger
from twisted.python.threadpool import ThreadPool

from kmp_smsd.config.changes import Change, changes, in_force
from kmp_smsd.config.faults import ConfigFaults
from kmp_smsd.config.load import Config, load
from kmp_smsd.config.secrets import SecretUnavailable
from kmp_smsd.control.protocol import CONFIGURATION, NO_PERMISSION, TEMPORARY, Refused
from kmp_smsd.service import notify
from kmp_smsd.service.intake_role import NothingToDo
from kmp_smsd.service.log_levels import LogLevels
from kmp_smsd.service.role import RoleService
from kmp_smsd.service.status import ConfigurationStatus, State, ms
from kmp_smsd.service.watching import Watch

LOOK_EVERY_S = 30.0  # at the files on disk


@dataclass(frozen=True, slots=True)
class Reloaded:
    """What a reload changed at once, and what it could not; `settled` fires when links and platforms have followed."""

    applied: tuple[str, ...]
    needs_restart: tuple[str, ...]
    settled: Deferred[Any]


class Reloader:
    """Knows which configuration is in force. Reads files in a thread of its own."""

    log = Logger()

    def __init__(self, config: Config, roles: Sequence[RoleService], reactor: Any) -> None:
        self.roles = roles
        self._reactor = reactor
        self._pool = ThreadPool(0, 1, name="config")
        self._one_at_a_time: DeferredLock = DeferredLock()
        self._watch = Watch(self.look_at_disk, reactor)
        self._in_force = config
        self.log_levels = LogLevels()
        self._path = config.path
        self._loaded_at = time.time()
        self._differences: tuple[str, ...] = ()
        self._needs_restart: tuple[str, ...] = ()
        self._faulty = False  # the files on disk, at the last look
        self._refused_for: Exception | None = None  # until it is known to be mended
        self._last: tuple[float, str | None] | None = None  # when, and why it was refused

    def start(self) -> None:
        self._pool.start()
        self._watch.start(LOOK_EVERY_S, now=False)

    def stop(self) -> None:
        self._watch.stop()
        self._pool.stop()

    @property
    def status(self) -> ConfigurationStatus:
        """What is in force, as of the last look at the files."""
        at, error = self._last or (None, None)
        return ConfigurationStatus(
            path=str(self._path),
            loaded_at=int(self._loaded_at * 1000),
            differs=bool(self._differences),
            differences=self._differences,
            faulty=self._faulty,
            last_reload_at=ms(at),
            last_reload_ok=None if at is None else error is None,
            last_reload_error=error,
            refusal_stands=self._refused_for is not None,
            needs_restart=self._needs_restart,
        )

    def reload(self) -> Deferred[Reloaded]:
        """Put the files on disk in force, as far as that goes without a restart.

        Fires as soon as that is so. Fails with Refused where something is wrong, all of it told; then what was in force
        stays so. A reload begins when the one before it has settled; none is put in force once the process stops.
        """
        asked: Deferred[Reloaded] = Deferred()

        async def work() -> None:
            try:
                self._check_not_stopping()
                notify.reloading()
                try:
                    reloaded = await self._reload()
                finally:
                    notify.ready()
            except BaseException:  # an interrupt too: who asked would wait for ever
                asked.errback()
                return
            asked.callback(reloaded)
            await reloaded.settled

        self._one_at_a_time.run(lambda: ensureDeferred(work())).addErrback(
            lambda failure: self.log.failure("a reload did not settle", failure, event="reload_not_settled")
        )
        return asked

    async def _reload(self) -> Reloaded:
        try:
            new = await self._in_thread(load, self._path)
            now = in_force(self._in_force, new)
            prepared = await self._in_thread(lambda: [role.prepare(now) for role in self.roles])
            self._check_not_stopping()  # nothing is waited for between this and the end
        except Refused:
            raise
        except Exception as error:  # whatever it is, the old configuration runs on and it is told
            refused = _refused(error)
            self._last = time.time(), str(refused)
            self._refused_for, self._faulty = error, isinstance(error, ConfigFaults)
            self.log.error("reload refused, nothing was changed: {reason}", event="reload_refused", reason=str(refused))
            raise refused from None
        applied = self._told(changes(self._in_force, now)) + tuple(what for one in prepared for what in one.also)
        settled = gatherResults([one.apply() for one in prepared])
        self.log_levels.fall_back()
        self._in_force = now
        self._loaded_at = time.time()
        self._needs_restart = self._differences = self._told(changes(now, new))
        self._last = self._loaded_at, None
        self._refused_for, self._faulty = None, False
        self.log.info(
            "reloaded; applied: {applied}; needs restart: {needs_restart}",
            event="reloaded",
            applied=", ".join(applied) or "nothing",
            needs_restart=", ".join(self._needs_restart) or "nothing",
        )
        return Reloaded(applied, self._needs_restart, settled)

    def _check_not_stopping(self) -> None:
        """Links and workers that end must not be made anew."""
        for role in self.roles:
            if role.state is State.STOPPING:
                raise Refused(f"{role.role} is stopping", TEMPORARY)

    def look_at_disk(self) -> Deferred[None]:
        """See what of the files on disk differs from what is in force."""

        def compared(on_disk: Config) -> None:
            self._differences = self._told(changes(self._in_force, on_disk))
            self._faulty = False
            undone = set(self._differences) <= set(self._needs_restart)
            if undone and isinstance(self._refused_for, ConfigFaults):  # whether a secret was mended is not seen here
                self._refused_for = None

        def unreadable(failure: Any) -> None:
            failure.trap(ConfigFaults)
            self._differences = tuple(str(failure.value).split("\n"))
            self._faulty = True

        looked: Deferred[Config] = self._in_thread(load, self._path)
        return looked.addCallbacks(compared, unreadable)

    def _told(self, found: Sequence[Change]) -> tuple[str, ...]:
        """What of it concerns the roles of this process."""
        ours = {"", *(role.role.value for role in self.roles)}
        return tuple(str(change) for change in found if change.role in ours)

    def _in_thread(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        return deferToThreadPool(self._reactor, self._pool, call, *args)


def _refused(error: Exception) -> Refused:
    """The sentences and the exit code, as at a start with the same files."""
    if isinstance(error, ConfigFaults | NothingToDo):
        return Refused(str(error), CONFIGURATION)
    if isinstance(error, SecretUnavailable):
        return Refused(str(error), NO_PERMISSION)
    raise error
