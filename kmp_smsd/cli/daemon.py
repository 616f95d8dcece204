"""``kmp-smsd run``, ``intake`` and ``dispatch``: the daemon. It stays in the foreground; systemd does the rest."""

from __future__ import annotations

import logging
import os
import resource
import signal
from collections.abc import Callable
from typing import Any

import click

from kmp_smsd import __version__
from kmp_smsd.cli.failures import BUG
from kmp_smsd.cli.logs import LEVELS, start_logging
from kmp_smsd.cli.settings import Settings

log = logging.getLogger(__name__)

_log_level = click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What to say on standard error."
)

_STOPS = "SIGTERM ends it in good order, a second one at once."


@click.command(epilog=_STOPS)
@_log_level
@click.pass_obj
def run(settings: Settings, log_level: str) -> None:
    """Take messages and deliver keys, in one process.

    For a lab: as services, intake and dispatch run apart, each with its own user and its own secrets.
    """
    _serve(settings, ("intake", "dispatch"), log_level)


@click.command(epilog=_STOPS)
@_log_level
@click.pass_obj
def intake(settings: Settings, log_level: str) -> None:
    """Take messages from the SMSCs and decide them."""
    _serve(settings, ("intake",), log_level)


@click.command(epilog=_STOPS)
@_log_level
@click.pass_obj
def dispatch(settings: Settings, log_level: str) -> None:
    """Deliver keys to the platforms."""
    _serve(settings, ("dispatch",), log_level)


def _serve(settings: Settings, names: tuple[str, ...], log_level: str) -> None:
    config = settings.config
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core dump would hold keys
    start_logging(log_level)
    from twisted.internet import reactor

    from kmp_smsd.service.wiring import Role, make_service

    service = make_service(config, [Role(name) for name in names], reactor)
    if "dispatch" in names and not config.platforms:
        log.warning("no platform is enabled: what is bound waits in the outbox")
    running = _Running(service, reactor, " and ".join(names))
    running.run()
    if running.broke:
        raise click.exceptions.Exit(BUG)


class _Running:
    """A service from its start to its end."""

    def __init__(self, service: Any, reactor: Any, name: str) -> None:
        self.broke = False
        self._service = service
        self._reactor = reactor
        self._name = name
        self._stopping = False

    def run(self) -> None:
        """Return when the service has stopped."""
        self._reactor.callWhenRunning(self._start)
        self._reactor.run(installSignalHandlers=False)

    def _start(self) -> None:
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)
        log.info("kmp-smsd %s starts: %s", __version__, self._name)
        self._guarded(self._service.startService)

    def _signalled(self, number: int, _frame: Any) -> None:
        """The first signal stops in good order, the second at once: what has no answer yet stays with the SMSC."""
        if self._stopping:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._stopping = True
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        log.info("stopping: %s", self._name)
        self._guarded(lambda: self._service.stopService().addCallbacks(self._stopped, self._not_stopped))

    def _stopped(self, results: list[tuple[bool, Any]]) -> None:
        for succeeded, failure in results:
            if not succeeded:
                self._not_stopped(failure)
                return
        log.info("stopped: %s", self._name)
        self._reactor.stop()

    def _not_stopped(self, failure: Any) -> None:
        log.error("not stopped in good order: %s: %s", self._name, failure.getErrorMessage())
        self._end_broken()

    def _guarded(self, step: Callable[[], Any]) -> None:
        try:
            step()
        except Exception:
            log.exception("cannot go on: %s", self._name)
            self._end_broken()

    def _end_broken(self) -> None:
        self.broke = True
        if self._reactor.running:
            self._reactor.stop()
