"""What may be asked of a role over its control socket, and what comes of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from twisted.internet.defer import TimeoutError

from kmp_smsd.control.protocol import FAILED, ROLE_OF, TEMPORARY, TRACE_MINUTES_MAX, USAGE, Refused
from kmp_smsd.service.control import Command
from kmp_smsd.service.health import judged
from kmp_smsd.service.log_levels import LEVELS, SUBSYSTEMS
from kmp_smsd.service.reloading import Reloader
from kmp_smsd.service.role import NotAtRest, RoleService, UnknownName
from kmp_smsd.service.status import Snapshot, State
from kmp_smsd.service.tracing import is_heard

LOOK_WITHIN_S = 1.0  # at the files on disk, before a status is given that knows of the last look only

Arguments = Mapping[str, Any]  # from outside: of any names and types
Say = Callable[[str], None]  # tells who asked how far it is


class Commands:
    """The commands of one role. Each raises Refused where it cannot be done."""

    def __init__(
        self, role: RoleService, reloader: Reloader, snapshot: Callable[[RoleService], Snapshot], reactor: Any
    ) -> None:
        self._role = role
        self._reloader = reloader
        self._snapshot = snapshot
        self._reactor = reactor

    def by_name(self) -> Mapping[str, Command]:
        """Each command under the name by which it is asked for."""
        changing = {
            "reload": self._reload,
            "drain": self._drain,
            "pause": self._pause,
            "resume": self._resume,
            "log-level": self._log_level,
            "trace": self._trace,
        }
        return {"status": self._status, **{name: self._unless_it_ends(command) for name, command in changing.items()}}

    def _unless_it_ends(self, command: Command) -> Command:
        """Links and workers that are to end must not be told to go on."""

        async def guarded(arguments: Arguments, say: Say) -> Mapping[str, Any]:
            if self._role.state is State.STOPPING:
                raise Refused(f"{self._role.role} is stopping", TEMPORARY)
            return await command(arguments, say)

        return guarded

    async def _status(self, _arguments: Arguments, _say: Say) -> Mapping[str, Any]:
        with suppress(TimeoutError):
            await self._reloader.look_at_disk().addTimeout(LOOK_WITHIN_S, self._reactor)
        return judged(self._snapshot(self._role))

    async def _reload(self, arguments: Arguments, say: Say) -> Mapping[str, Any]:
        reloaded = await self._reloader.reload()
        if arguments.get("wait"):
            say("waiting for what has to drain")
            await reloaded.settled
        return {
            "roles": [one.role.value for one in self._reloader.roles],
            "applied": list(reloaded.applied),
            "needs_restart": list(reloaded.needs_restart),
        }

    async def _drain(self, _arguments: Arguments, say: Say) -> Mapping[str, Any]:
        say("waiting for what is in flight")
        try:
            await self._role.drain()
        except NotAtRest as error:
            raise Refused(f"{self._role.role.value}: {error}", TEMPORARY) from None
        return {"state": self._role.state.value}

    async def _pause(self, arguments: Arguments, _say: Say) -> Mapping[str, Any]:
        kind, name = self._place(arguments)
        _known(self._role.pause, name)
        return {"kind": kind, "name": name}

    async def _resume(self, arguments: Arguments, _say: Say) -> Mapping[str, Any]:
        if "name" not in arguments:
            self._role.go_on()
            return {"state": self._role.state.value}
        kind, name = self._place(arguments)
        _known(self._role.resume, name)
        return {"kind": kind, "name": name, "state": self._role.state.value}

    async def _log_level(self, arguments: Arguments, _say: Say) -> Mapping[str, Any]:
        subsystem, level = str(arguments.get("subsystem")), str(arguments.get("level"))
        if subsystem not in SUBSYSTEMS or level not in LEVELS:
            raise Refused(f"a subsystem is one of {', '.join(SUBSYSTEMS)}, a level of {', '.join(LEVELS)}", USAGE)
        self._reloader.log_levels.set(subsystem, level)
        return {"log_levels": self._reloader.log_levels.set_by_hand}

    async def _trace(self, arguments: Arguments, _say: Say) -> Mapping[str, Any]:
        name, minutes = arguments.get("name"), arguments.get("minutes")
        if not (isinstance(name, str) and isinstance(minutes, int | float) and 0 <= minutes <= TRACE_MINUTES_MAX):
            raise Refused(f"a trace has the name of a link, and 0 to {TRACE_MINUTES_MAX} minutes", USAGE)
        if minutes and not is_heard():
            raise Refused("the log takes no traces at its level: run 'kmp-smsd log-level smpp info' before", FAILED)
        _known(lambda link: self._role.trace(link, minutes), name)
        return {"name": name, "minutes": minutes}

    def _place(self, arguments: Arguments) -> tuple[str, str]:
        """The kind and the name of what is to rest. Raises Refused."""
        kind, name = arguments.get("kind"), arguments.get("name")
        if not (isinstance(kind, str) and isinstance(name, str) and ROLE_OF.get(kind) == self._role.role):
            raise Refused(f"{self._role.role} has no such thing", USAGE)
        return kind, name


def _known(tell: Callable[[str], None], name: str) -> None:
    try:
        tell(name)
    except UnknownName as error:
        raise Refused(f"{error}: see 'kmp-smsd status'", FAILED) from None
