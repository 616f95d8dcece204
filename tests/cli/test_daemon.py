"""The daemon as a process: its log, its end, and what keeps it from starting."""

from __future__ import annotations

import fcntl
import logging
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from kmp_smsd.cli.log_lines import OneLine
from kmp_smsd.simulator.openssh import new_identity
from kmp_smsd.simulator.server import SmscServer
from kmp_smsd.smpp.constants import CommandStatus
from tests.cli.site import FIRST, HOST_KEY, PLATFORM, dead_port, until

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (debug|info|warning|error|critical) [\w.]+: .+")


@pytest.fixture
def smsc():
    with SmscServer() as server:
        yield server


class Daemon:
    """A role, and what it says."""

    def __init__(self, site, *words, **options):
        self.process = site.process(*words, **options)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line.rstrip("\n"))

    def end(self):
        code = self.process.wait(20)
        self._reader.join()
        self.process.stderr.close()
        self.process.stdout.close()
        return code


def start(site, smsc, *words, **options):
    if "smsc.lab" not in site.config.read_text():
        site.link(smsc.port)
    (site.directory / "ssh-identity").touch(mode=0o600)
    daemon = Daemon(site, *words, **options)
    until(lambda: smsc.bound == 1 or daemon.process.poll() is not None)
    return daemon


def test_sigterm_ends_both_roles_in_good_order(site, smsc):
    site.ready("K1")
    daemon = start(site, smsc, "run")
    assert smsc.send(FIRST, "K1:K1").result(20) == 0
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.end() == 0
    assert all(LINE.fullmatch(line) for line in daemon.said), daemon.said
    assert any("starts: intake and dispatch" in line for line in daemon.said)
    assert daemon.said[-1].endswith("stopped: intake and dispatch")
    assert list((site.directory / "control").iterdir()) == []
    assert not any(FIRST in line or "K1" in line for line in daemon.said)
    assert [row["key_id"] for row in site.rows("bindings", "list")] == ["K1"]


def test_a_second_sigterm_ends_it_at_once(site, smsc):
    site.ready("K1")
    daemon = start(site, smsc, "intake")
    with site.store() as store, store._database.transaction():  # intake waits for the store, and so does its end
        smsc.send(FIRST, "K1:K1")
        until(lambda: smsc.counts.sent == 1)
        daemon.process.send_signal(signal.SIGTERM)
        until(lambda: any("stopping: intake" in line for line in daemon.said))
        assert daemon.process.poll() is None
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.end() == -signal.SIGTERM


def somebody_waits(site):
    """Whether somebody stands in the queue for the write lock: its first one holds this file."""
    with open(site.database.with_name("kmp.db.next"), "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.mark.parametrize("reloaded", [False, True])
def test_it_ends_in_time_though_somebody_keeps_the_write_lock(site, smsc, reloaded):
    site.ready("K1")
    site.link(smsc.port)
    good = site.config.read_text()
    site.config.write_text(good + f"unbind_timeout_s = {60.0 if reloaded else 0.1}\n")
    env = site.customized(
        "from kmp_smsd.cli import daemon\ndaemon.STOP_WITHIN_S = 0.5\ndaemon.STOP_AFTER_LINKS_S = 0.5\n"
    )
    daemon = start(site, smsc, "run", env=env)
    if reloaded:
        site.config.write_text(good + "unbind_timeout_s = 0.1\n")
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: any("reloaded; applied" in line for line in daemon.said))
        until(lambda: smsc.bound == 1 and smsc.counts.binds == 2)
    with site.store() as store, store._database.transaction():
        assert smsc.send(FIRST, "K1:K1").result(20) == CommandStatus.ESME_ROK
        until(lambda: somebody_waits(site))
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.end() == 75
    assert "error kmp_smsd.cli.daemon: not stopped within 0.6 s, ending at once: intake and dispatch" in daemon.said[-1]
    assert "what has one stays in the inbox until it is decided" in daemon.said[-1]
    assert site.rows("bindings", "list") == []
    again = start(site, smsc, "run")
    until(lambda: [row["key_id"] for row in site.rows("bindings", "list")] == ["K1"])
    again.process.send_signal(signal.SIGTERM)
    assert again.end() == 0


CLOCK = """
import time
real = time.time
time.time = lambda: real() + float(open({clock!r}).read())
"""


@pytest.fixture
def dead_host():
    with dead_port() as port:
        yield f"127.0.0.1:{port}"


@pytest.mark.parametrize("days", [-2, 2])
def test_timers_go_on_when_the_clock_is_set(site, smsc, dead_host, days):
    """A key that comes due is found, and a platform that is down is tried again and again."""
    site.ready("K1")
    site.write("platforms.d/metering.toml", "retry_min_s = 0.1\n" + PLATFORM.format(host=dead_host, host_key=HOST_KEY))
    clock = site.write("clock", "0")

    def set_clock(days):
        site.write("clock.new", str(days * 86_400)).replace(clock)

    def tries():
        return sum("Connection refused" in line and "warning" in line for line in daemon.said)

    daemon = start(site, smsc, "run", env=site.customized(CLOCK.format(clock=str(clock))))
    (site.directory / "ssh-identity").write_bytes(new_identity()[0])
    set_clock(days)
    assert smsc.send(FIRST, "K1:K1").result(20) == 0
    until(lambda: tries() >= 2)
    set_clock(0)
    tried = tries()
    until(lambda: tries() >= tried + 2)
    daemon.process.terminate()
    assert daemon.end() == 0


# PR_GET_DUMPABLE
DUMPABLE_AT_THE_END = """
import atexit, ctypes, sys
atexit.register(lambda: print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), file=sys.stderr))
"""


def test_the_memory_of_a_process_that_holds_keys_is_nobody_s_to_read(site, smsc):
    site.ready("K1")
    env = site.customized(DUMPABLE_AT_THE_END)
    daemon = start(site, smsc, "run", env=env)
    assert re.search(r"Max core file size +0 +0 ", Path("/proc", str(daemon.process.pid), "limits").read_text())
    until(lambda: any(" decides" in line for line in daemon.said))
    daemon.process.terminate()
    assert daemon.end() == 0
    assert [line for line in daemon.said if line.startswith("dumpable")] == ["dumpable 0"] * 2  # one of them decides
    keys = str(site.keys("K2"))
    for words, dumpable in (
        (("keys", "import", keys, "--vendor", "Acme", "--plaintext"), "0"),
        (("platforms", "test", "metering"), "0"),
        (("doctor",), "0"),
        (("keys", "list"), "1"),  # which shows that the kernel is asked
    ):
        done = subprocess.run(site.words(*words), env=env, capture_output=True, text=True, check=False)
        assert done.stderr.splitlines()[-1] == f"dumpable {dumpable}"


def test_the_garbage_collector_leaves_out_what_is_there_from_the_start(site, smsc):
    """Else it stops everything for 50 ms now and then."""
    site.ready("K1")
    said = site.directory / "objects"
    code = f"""
import atexit, gc, pathlib
def tell():
    pathlib.Path({str(said)!r}).write_text(f"{{gc.get_freeze_count()}} {{len(gc.get_objects())}}")
atexit.register(tell)
"""
    daemon = start(site, smsc, "intake", env=site.customized(code))
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.end() == 0
    left_out, gone_through = map(int, said.read_text().split())
    assert left_out > 10 * gone_through


def test_role_whose_place_another_process_takes_while_it_starts_says_so(site, smsc):
    site.ready()
    path = site.directory / "control" / "intake.sock"
    code = f"""
import gc, socket
freeze, quicker = gc.freeze, socket.socket(socket.AF_UNIX)
def take_place():
    quicker.bind({str(path)!r})
    quicker.listen()
    freeze()
gc.freeze = take_place
"""
    daemon = start(site, smsc, "intake", env=site.customized(code))
    assert daemon.end() == 75
    assert daemon.said[-1] == (
        f"kmp-smsd: cannot listen at {path}: Address already in use: does another process of this role run?"
    )
    assert not any("Traceback" in line for line in daemon.said)


def test_debug_says_more_and_error_nothing(site, smsc):
    site.ready()
    for level, more in (("debug", True), ("error", False)):
        daemon = start(site, smsc, "intake", "--log-level", level)
        daemon.process.send_signal(signal.SIGINT)
        assert daemon.end() == 0
        assert bool(daemon.said) is more
        until(lambda: smsc.bound == 0)


@pytest.mark.parametrize("role", ["run", "dispatch"])
def test_dispatch_does_not_start_without_its_secret(site, role):
    site.link(1)
    site.ok("master-key", "create")
    site.ok("db", "migrate")
    (site.directory / "master.key").unlink()
    daemon = Daemon(site, role)
    assert daemon.end() == 77
    assert "master.key: No such file or directory" in daemon.said[-1]


def test_the_wrong_master_key_is_refused_at_start(site):
    site.ready("K1")
    (site.directory / "master.key").unlink()
    (site.directory / "master.pub").rename(site.directory / "old.pub")
    site.database.rename(site.directory / "aside.db")
    site.ok("master-key", "create")
    (site.directory / "aside.db").rename(site.database)
    daemon = Daemon(site, "dispatch")
    assert daemon.end() == 77
    assert f"the keys in {site.database} are sealed to master key" in daemon.said[-1]
    assert daemon.said[-1].endswith(", correct [storage] path, or restore this installation's backup")


def test_intake_does_not_start_without_a_database_or_a_link(site):
    daemon = Daemon(site, "intake")
    assert daemon.end() == 78
    assert "no [smsc.NAME] section is enabled" in daemon.said[-1]
    site.link(1)
    daemon = Daemon(site, "intake")
    assert daemon.end() == 78
    assert "For a new one run 'kmp-smsd db migrate'" in daemon.said[-1]


def test_a_role_does_not_start_without_a_place_for_its_control_socket(site):
    site.link(1)
    site.ready()
    (site.directory / "control").rmdir()
    daemon = Daemon(site, "intake")
    assert daemon.end() == 78
    assert "/control for the control socket: create it with 'systemd-tmpfiles --create'" in daemon.said[-1]


def test_a_traceback_is_one_line_of_the_log():
    try:
        raise ValueError("first\nsecond \x1b[31m")
    except ValueError:
        record = logging.LogRecord("room", logging.ERROR, "file", 1, "broken: %s", ("a\nb",), sys.exc_info())
    line = OneLine().format(record)
    assert LINE.fullmatch(line)
    assert "error room: broken: a b | Traceback" in line
    assert r"ValueError: first second \x1b[31m" in line
