"""``kmp-smsd run``, ``intake`` and ``dispatch``: the daemon. It stays in the foreground; systemd does the rest."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import click

from kmp_smsd import __version__
from kmp_smsd.cli.failures import BUG, TEMPORARY
from kmp_smsd.cli.logs import FORMATS, start_logging
from kmp_smsd.cli.settings import Settings
from kmp_smsd.service.log_levels import LEVELS
from kmp_smsd.vault.own_process import make_undumpable

log = logging.getLogger(__name__)

_log_level = click.option(
    "--log-level", type=click.Choice(LEVELS), default="info", show_default=True, help="What to say on standard error."
)
_log_format = click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default="auto",
    show_default=True,
    help="How to say it: auto writes to the journal where standard error leads there, else text.",
)

STDERR = 2
STOP_WITHIN_S = 20.0  # but never less than a link may take, and this on top of it:
STOP_AFTER_LINKS_S = 10.0
_STOPS = (
    "SIGTERM ends it in good order or, after 20 seconds (10 more than unbind_timeout_s where that is longer), by force "
    "(exit status 75); a second one ends it at once. SIGHUP reloads the configuration, as `kmp-smsd reload` does."
)


@click.command(epilog=_STOPS)
@_log_level
@_log_format
@click.pass_obj
def run(settings: Settings, log_level: str, log_format: str) -> None:
    """Take messages and deliver keys, in one process.

    For a lab: as services, intake and dispatch run apart, each with its own user and its own secrets.
    """
    _serve(settings, ("intake", "dispatch"), log_level, log_format)


@click.command(epilog=_STOPS)
@_log_level
@_log_format
@click.pass_obj
def intake(settings: Settings, log_level: str, log_format: str) -> None:
    """Take messages from the SMSCs and decide them."""
    _serve(settings, ("intake",), log_level, log_format)


@click.command(epilog=_STOPS)
@_log_level
@_log_format
@click.pass_obj
def dispatch(settings: Settings, log_level: str, log_format: str) -> None:
    """Deliver keys to the platforms."""
    _serve(settings, ("dispatch",), log_level, log_format)


def _serve(settings: Settings, names: tuple[str, ...], log_level: str, log_format: str) -> None:
    config = settings.config
    make_undumpable()
    faulthandler.enable(STDERR)  # a watchdog's SIGABRT shows where each thread hangs; code only, no values
    start_logging(log_level, log_format, role=names[0] if len(names) == 1 else "run")
    from twisted.internet import reactor

    # Twisted's is the wall clock: set back by a day, no timer would fire for a day.
    reactor.seconds = time.monotonic  # type: ignore[method-assign, misc]  # an object that Twisted types as a module
    from kmp_smsd.service.role import Role
    from kmp_smsd.service.wiring import make_service

    service = make_service(config, [Role(name) for name in names], reactor)
    if "dispatch" in names and not config.platforms:
        log.warning("no platform is enabled: what is bound waits in the outbox", extra={"event": "no_platform"})
    running = _Running(service, reactor, " and ".join(names))
    # What is there by now stays: the garbage collector would go through it now and then, and stop everything for 50 ms.
    gc.collect()  # what is garbage by now would stay as well
    gc.freeze()
    running.run()
    if running.refused is not None:
        raise running.refused
    if running.broke:
        raise click.exceptions.Exit(BUG)


class _Running:
    """A service from its start to its end, which comes in a time that it is asked for at the first signal."""

    def __init__(self, service: Any, reactor: Any, name: str) -> None:
        self.broke = False
        self.refused: Exception | None = None  # why it did not start, for a person
        self._service = service
        self._reactor = reactor
        self._name = name
        self._stop_within_s = STOP_WITHIN_S
        self._stopping = False
        self._ending = threading.Event()

    def run(self) -> None:
        """Return when the service has stopped."""
        self._reactor.callWhenRunning(self._start)
        self._reactor.run(installSignalHandlers=False)

    def _start(self) -> None:
        signal.signal(signal.SIGTERM, self._signalled)
        signal.signal(signal.SIGINT, self._signalled)
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self._service.reload))
        threading.Thread(target=self._end_in_time, name="deadline", daemon=True).start()
        told = {"event": "daemon_starts", "version": __version__}
        log.info("kmp-smsd %s starts: %s", __version__, self._name, extra=told)
        self._guarded(self._start_service)

    def _start_service(self) -> None:
        from kmp_smsd.service.control_socket import ControlUnusable

        try:
            self._service.startService()
        except ControlUnusable as error:  # another process of a role that began in the same moment was quicker
            self.refused = error
            self._end_broken()

    def _signalled(self, number: int, _frame: Any) -> None:
        """The first signal stops in good order, the second at once: what has no answer yet stays with the SMSC."""
        if self._stopping:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self._stopping = True
        self._begin_to_end()
        self._reactor.callFromThread(self._stop)

    def _stop(self) -> None:
        log.info("stopping: %s", self._name, extra={"event": "daemon_stops"})
        self._guarded(lambda: self._service.stopService().addCallbacks(self._stopped, self._not_stopped))

    def _stopped(self, results: list[tuple[bool, Any]]) -> None:
        for succeeded, failure in results:
            if not succeeded:
                self._not_stopped(failure)
                return
        log.info("stopped: %s", self._name, extra={"event": "daemon_stopped"})
        self._reactor.stop()

    def _not_stopped(self, failure: Any) -> None:
        reason = failure.getErrorMessage()
        told = {"event": "daemon_not_stopped", "reason": reason}
        log.error("not stopped in good order: %s: %s", self._name, reason, extra=told)
        self._end_broken()

    def _guarded(self, step: Callable[[], Any]) -> None:
        try:
            step()
        except Exception:  # in the reactor's hands nobody would end the process
            log.exception("cannot go on: %s", self._name, extra={"event": "daemon_broke"})
            self._end_broken()

    def _end_broken(self) -> None:
        self.broke = True
        self._begin_to_end()
        if self._reactor.running:
            self._reactor.stop()

    def _begin_to_end(self) -> None:
        """From now on time runs; how much, a reload may have changed."""
        if not self._ending.is_set():
            self._stop_within_s = max(STOP_WITHIN_S, self._service.links_end_within_s + STOP_AFTER_LINKS_S)
            self._ending.set()

    def _end_in_time(self) -> None:
        """In a thread of its own: end a process that does not, since a thread of it waits for a lock or a disk."""
        self._ending.wait()
        time.sleep(self._stop_within_s)
        told = threading.Thread(target=self._tell_too_late, daemon=True)  # the log may be what everybody waits for
        told.start()
        told.join(1.0)
        os._exit(TEMPORARY)

    def _tell_too_late(self) -> None:
        log.error(
            "not stopped within %g s, ending at once: %s; nothing is lost: what has no answer stays with the SMSC, "
            "what has one stays in the inbox until it is decided, what has no receipt stays due",
            self._stop_within_s,
            self._name,
            extra={"event": "daemon_stopped_by_force"},
        )
