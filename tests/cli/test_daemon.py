"""The daemon as a process: its log, its end, and what keeps it from starting."""

from __future__ import annotations

import logging
import re
import signal
import sys
import threading

import pytest

from kmp_smsd.cli.logs import OneLine
from kmp_smsd.simulator.server import SmscServer
from tests.cli.site import FIRST, until

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d (debug|info|warning|error|critical) [\w.]+: .+")


@pytest.fixture
def smsc():
    with SmscServer() as server:
        yield server


class Daemon:
    """A role, and what it says."""

    def __init__(self, site, *words):
        self.process = site.process(*words)
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


def start(site, smsc, *words):
    if "smsc.lab" not in site.config.read_text():
        site.link(smsc.port)
    (site.directory / "ssh-identity").touch(mode=0o600)
    daemon = Daemon(site, *words)
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
    assert "the keys in the database are sealed to master key" in daemon.said[-1]


def test_intake_does_not_start_without_a_database_or_a_link(site):
    daemon = Daemon(site, "intake")
    assert daemon.end() == 78
    assert "no [smsc.NAME] section is enabled" in daemon.said[-1]
    site.link(1)
    daemon = Daemon(site, "intake")
    assert daemon.end() == 78
    assert "For a new one run 'kmp-smsd db migrate'" in daemon.said[-1]


def test_a_traceback_is_one_line_of_the_log():
    try:
        raise ValueError("first\nsecond \x1b[31m")
    except ValueError:
        record = logging.LogRecord("room", logging.ERROR, "file", 1, "broken: %s", ("a\nb",), sys.exc_info())
    line = OneLine().format(record)
    assert LINE.fullmatch(line)
    assert "error room: broken: a b | Traceback" in line
    assert r"ValueError: first second \x1b[31m" in line
