from __future__ import annotations

import os
import pwd
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from kmp_smsd.simulator.lab import STOP_WITHIN_S, Lab
from kmp_smsd.simulator.openssh import OpensshServer, is_usable, new_identity
from kmp_smsd.simulator.platform import SimulatedPlatform
from tests.sshd import require_sshd

WITH_A_ROLE = """
import signal, sys
from pathlib import Path
from kmp_smsd.simulator.lab import Lab

class Short(Lab):
    def words(self, *_):
        return [sys.executable, "-c", "import signal, sys; print(file=sys.stderr, flush=True); signal.pause()"]

lab = Short(Path(sys.argv[1]), {}, openssh=False)
role = lab.start_role_unbound("run")
lab.wait_for(lambda: role.said, "the role to be what it is to become")
print(role.process.pid, flush=True)
signal.pause()
"""


@pytest.fixture
def nameless(monkeypatch: pytest.MonkeyPatch) -> None:
    """The current user is in no /etc/passwd, as in many containers."""

    def getpwuid(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), 5.0).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.parametrize("openssh", [False, True])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_lab_that_cannot_start_leaves_nothing_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, openssh: bool, error: type[BaseException]
) -> None:
    if openssh:
        require_sshd()

    def command(lab: Lab, *_words: str) -> None:
        seen.extend([f"127.0.0.1:{lab.smsc.port}", *(one.server.address for one in lab.platforms.values())])
        assert all(map(answers, seen))
        raise error

    seen: list[str] = []
    monkeypatch.setattr(Lab, "command", command)
    with pytest.raises(error):
        Lab(tmp_path, {"metering": ["meter"], "fleet": ["tracker"]}, openssh=openssh).start()
    assert len(seen) == 3
    assert not any(map(answers, seen))


@pytest.mark.parametrize("umask", [0o000, 0o002, 0o077])
def test_lab_is_to_the_daemon_s_taste_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        with Lab(tmp_path / "lab", {"metering": ["meter"]}, openssh=False) as lab:
            lab.command("check-config")
    finally:
        os.umask(before)


@pytest.mark.usefixtures("nameless")
def test_user_without_a_name_gets_platforms_that_need_none(tmp_path: Path) -> None:
    assert not is_usable()
    assert not Lab(tmp_path, {}).openssh
    assert SimulatedPlatform(["true"], new_identity()[1]).user


@pytest.mark.parametrize(("shell", "usable"), [("/bin/sh", True), ("/bin/false", False), ("/no/such/shell", False)])
def test_sshd_is_for_users_whose_shell_runs_commands(monkeypatch: pytest.MonkeyPatch, shell: str, usable: bool) -> None:
    require_sshd()
    user = SimpleNamespace(pw_name="service", pw_shell=shell)
    monkeypatch.setattr(pwd, "getpwuid", lambda _uid: user)
    assert is_usable() is usable


@pytest.mark.usefixtures("nameless")
def test_user_without_a_name_is_told_what_sshd_lacks(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"^uid \d+ has no name to log in with at sshd"):
        OpensshServer(tmp_path, "true", new_identity()[1])


def test_role_ends_with_its_lab_however_that_ends(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", WITH_A_ROLE, tmp_path], stdout=subprocess.PIPE) as lab:
        assert lab.stdout is not None
        role = os.pidfd_open(int(lab.stdout.readline()))
        ended = select.poll()
        ended.register(role, select.POLLIN)
        assert not ended.poll(0)
        lab.kill()
    try:
        assert ended.poll(STOP_WITHIN_S * 1000)
    finally:
        if not ended.poll(0):
            signal.pidfd_send_signal(role, signal.SIGKILL)
        os.close(role)
