"""One process: its roles, the configuration they share, and for each where it is told and where it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, gatherResults
from twisted.logger import Logger

from kmp_smsd.config.load import Config
from kmp_smsd.control.protocol import Refused, socket_path
from kmp_smsd.monitoring.answers import Sight
from kmp_smsd.service.commands import Commands
from kmp_smsd.service.control import ControlServer
from kmp_smsd.service.health import alive_in, judged, ready
from kmp_smsd.service.monitor import Monitor
from kmp_smsd.service.notify import ManagerNotified
from kmp_smsd.service.reloading import Reloader
from kmp_smsd.service.role import RoleService
from kmp_smsd.service.status import Snapshot, State
from kmp_smsd.service.summary import summary


class Daemon(MultiService):
    """The roles of this process, each a child. Control sockets and monitors answer from the start to the last's end."""

    log = Logger()

    def __init__(self, config: Config, roles: Sequence[RoleService], reactor: Any) -> None:
        super().__init__()
        self.roles = roles
        self.reloader = Reloader(config, roles, reactor)
        self._servers = [
            ControlServer(
                socket_path(config.control.directory, role.role),
                Commands(role, self.reloader, self.snapshot, reactor).by_name(),
                reactor,
            )
            for role in roles
        ]
        self._monitors = [
            Monitor(listening, partial(self._sight, role), reactor)
            for role in roles
            if (listening := getattr(config.monitoring, role.role)) is not None
        ]
        self._manager = ManagerNotified(lambda: summary(self.snapshots()), self._lives, reactor)
        for role in roles:
            role.setServiceParent(self)

    def startService(self) -> None:
        self.reloader.start()
        for server in self._servers:
            server.open()
        for monitor in self._monitors:
            monitor.open()
        super().startService()
        self._manager.startService()

    def stopService(self) -> Deferred[Any]:
        self._manager.stopService()
        stopped: Deferred[Any] = super().stopService()
        return stopped.addBoth(self._stopped)

    @property
    def links_end_within_s(self) -> float:
        """How long the links may take to end in good order, as they are now; 0 where there is none."""
        return max(role.links_end_within_s for role in self.roles)

    def snapshot(self, role: RoleService) -> Snapshot:
        """How a role is now."""
        return role.snapshot(self.reloader.status, self.reloader.log_levels)

    def snapshots(self) -> list[Snapshot]:
        """How each role is now."""
        return [self.snapshot(role) for role in self.roles]

    def _sight(self, role: RoleService) -> Sight:
        snapshot = self.snapshot(role)
        return Sight(judged(snapshot), alive_in(snapshot), ready(snapshot))

    def reload(self) -> None:
        """Put the files on disk in force, unless the process ends; the log says what came of it."""
        if not any(role.state is State.STOPPING for role in self.roles):
            self.reloader.reload().addErrback(self._not_reloaded)

    def _lives(self) -> bool:
        return not any(alive_in(snapshot) for snapshot in self.snapshots())

    def _not_reloaded(self, failure: Any) -> None:
        if not failure.check(Refused):
            self.log.failure("the configuration could not be reloaded", failure, event="reload_failed")

    def _stopped(self, result: Any) -> Deferred[Any]:
        self.reloader.stop()
        closed = [server.close() for server in self._servers] + [monitor.close() for monitor in self._monitors]
        return gatherResults(closed).addBoth(lambda _: result)
