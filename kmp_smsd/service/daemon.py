"""One process: its roles, the configuration they share, and for each where it is told and where it is looked at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, TimeoutError, gatherResults
from twisted.logger import Logger

from kmp_smsd.config.load import Config
from kmp_smsd.control.protocol import FAILED, ROLE_OF, TEMPORARY, TRACE_MINUTES_MAX, USAGE, Refused, socket_path
from kmp_smsd.monitoring.answers import Sight
from kmp_smsd.service.control import Command, ControlServer
from kmp_smsd.service.health import alive_in, degraded, ready
from kmp_smsd.service.log_levels import LEVELS, SUBSYSTEMS
from kmp_smsd.service.monitor import Monitor
from kmp_smsd.service.notify import ManagerNotified
from kmp_smsd.service.reloading import Reloader
from kmp_smsd.service.role import NotAtRest, RoleService, UnknownName
from kmp_smsd.service.status import Snapshot, State
from kmp_smsd.service.summary import summary
from kmp_smsd.service.tracing import is_heard

LOOK_WITHIN_S = 1.0  # at the files on disk, before a status is given that knows of the last look only


class Daemon(MultiService):
    """The roles of this process, each a child. Control sockets and monitors answer from the start to the last's end."""

    log = Logger()

    def __init__(self, config: Config, roles: Sequence[RoleService], reactor: Any) -> None:
        super().__init__()
        self.roles = roles
        self.reloader = Reloader(config, roles, reactor)
        self._reactor = reactor
        self._servers = [
            ControlServer(socket_path(config.control.directory, role.role), self._commands(role), reactor)
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
        return Sight(snapshot.as_json(), alive_in(snapshot), ready(snapshot))

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

    def _commands(self, role: RoleService) -> Mapping[str, Command]:
        """What may be asked of one role, by name; the arguments come from outside."""

        async def status(_arguments: Mapping[str, Any], _say: Callable[[str], None]) -> Mapping[str, Any]:
            with suppress(TimeoutError):
                await self.reloader.look_at_disk().addTimeout(LOOK_WITHIN_S, self._reactor)
            snapshot = self.snapshot(role)
            return {**snapshot.as_json(), "not_ready": ready(snapshot), "degraded": degraded(snapshot)}

        async def reload(arguments: Mapping[str, Any], say: Callable[[str], None]) -> Mapping[str, Any]:
            reloaded = await self.reloader.reload()
            if arguments.get("wait"):
                say("waiting for what has to drain")
                await reloaded.settled
            return {
                "roles": [one.role.value for one in self.roles],
                "applied": list(reloaded.applied),
                "needs_restart": list(reloaded.needs_restart),
            }

        async def drain(_arguments: Mapping[str, Any], say: Callable[[str], None]) -> Mapping[str, Any]:
            say("waiting for what is in flight")
            try:
                await role.drain()
            except NotAtRest as error:
                raise Refused(f"{role.role.value}: {error}", TEMPORARY) from None
            return {"state": role.state.value}

        async def pause(arguments: Mapping[str, Any], _say: Callable[[str], None]) -> Mapping[str, Any]:
            kind, name = _place(arguments, role)
            _known(role.pause, name)
            return {"kind": kind, "name": name}

        async def resume(arguments: Mapping[str, Any], _say: Callable[[str], None]) -> Mapping[str, Any]:
            if "name" not in arguments:
                role.go_on()
                return {"state": role.state.value}
            kind, name = _place(arguments, role)
            _known(role.resume, name)
            return {"kind": kind, "name": name, "state": role.state.value}

        async def log_level(arguments: Mapping[str, Any], _say: Callable[[str], None]) -> Mapping[str, Any]:
            subsystem, level = str(arguments.get("subsystem")), str(arguments.get("level"))
            if subsystem not in SUBSYSTEMS or level not in LEVELS:
                raise Refused(f"a subsystem is one of {', '.join(SUBSYSTEMS)}, a level of {', '.join(LEVELS)}", USAGE)
            self.reloader.log_levels.set(subsystem, level)
            return {"log_levels": self.reloader.log_levels.set_by_hand}

        async def trace(arguments: Mapping[str, Any], _say: Callable[[str], None]) -> Mapping[str, Any]:
            name, minutes = arguments.get("name"), arguments.get("minutes")
            if not (isinstance(name, str) and isinstance(minutes, int | float) and 0 <= minutes <= TRACE_MINUTES_MAX):
                raise Refused(f"a trace has the name of a link, and 0 to {TRACE_MINUTES_MAX} minutes", USAGE)
            if minutes and not is_heard():
                raise Refused("the log takes no traces at its level: run 'kmp-smsd log-level smpp info' before", FAILED)
            _known(lambda link: role.trace(link, minutes), name)
            return {"name": name, "minutes": minutes}

        def unless_it_ends(command: Command) -> Command:
            """Links and workers that are to end must not be told to go on."""

            async def guarded(arguments: Mapping[str, Any], say: Callable[[str], None]) -> Mapping[str, Any]:
                if role.state is State.STOPPING:
                    raise Refused(f"{role.role} is stopping", TEMPORARY)
                return await command(arguments, say)

            return guarded

        changing = {
            "reload": reload,
            "drain": drain,
            "pause": pause,
            "resume": resume,
            "log-level": log_level,
            "trace": trace,
        }
        return {"status": status, **{name: unless_it_ends(command) for name, command in changing.items()}}


def _place(arguments: Mapping[str, Any], role: RoleService) -> tuple[str, str]:
    """The kind and the name of what is to rest. Raises Refused."""
    kind, name = arguments.get("kind"), arguments.get("name")
    if not (isinstance(kind, str) and isinstance(name, str) and ROLE_OF.get(kind) == role.role):
        raise Refused(f"{role.role} has no such thing", USAGE)
    return kind, name


def _known(tell: Callable[[str], None], name: str) -> None:
    try:
        tell(name)
    except UnknownName as error:
        raise Refused(f"{error}: see 'kmp-smsd status'", FAILED) from None
