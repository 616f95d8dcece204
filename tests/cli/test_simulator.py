"""The counterparts that a lab starts by hand, with the daemon between them."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest

from kmp_smsd.simulator.openssh import new_identity
from tests.cli.site import FIRST, SECOND, until


@pytest.fixture
def processes():
    running: list[subprocess.Popen[str]] = []
    yield running
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()


def test_messages_typed_at_the_simulated_smsc_reach_the_simulated_platform(site, processes):
    site.ready("K1")
    private, public = new_identity()
    identity = site.directory / "ssh-identity"
    identity.touch(mode=0o600)
    identity.write_bytes(private)
    public_file = site.write("ssh.pub", public + "\n")
    platform = site.process("simulator", "platform", str(public_file), "--store", str(site.directory / "held.db"))
    processes.append(platform)
    channel = "".join(platform.stdout.readline() for _ in range(5))
    site.write("platforms.d/metering.toml", f'apps = ["meter"]\n{channel}')

    smsc = site.process("simulator", "smsc", "--port", "0", stdin=subprocess.PIPE)
    processes.append(smsc)
    site.link(int(smsc.stderr.readline().rpartition(":")[2]))
    daemon = site.process("run", stderr=subprocess.DEVNULL)
    processes.append(daemon)
    smsc.stdin.write(f"# a terminal powers on\n{FIRST} K1:K1\n\n{SECOND} nonsense\n")
    smsc.stdin.close()
    said = sorted(smsc.stdout.read().splitlines())
    assert said == [f"ESME_ROK (0x00) {FIRST} K1:K1", f"ESME_RX_R_APPN (0x66) {SECOND} nonsense"]
    assert smsc.wait(20) == 0

    def confirmed() -> bool:
        return [row["confirmed_version"] == row["wanted_version"] for row in site.rows("bindings", "list")] == [True]

    until(confirmed)
    daemon.terminate()
    assert daemon.wait(20) == 0
    platform.send_signal(signal.SIGTERM)
    assert platform.wait(20) == 0


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (FIRST.encode(), "line 2: write MDN TEXT, as in 8613912345678 K1:KEY-1"),
        (b"\xff \xfe", "line 2 is not in UTF-8"),
        ("8613 \u7535".encode(), "line 2 has characters that Latin-1 has not: '8613 \u7535'"),
        (b"5" * 5_000, "line 2 has more than 4,096 octets: is a line end missing?"),
    ],
)
def test_a_line_that_is_no_message_is_refused_with_its_number(site, processes, line, sentence):
    smsc = site.process("simulator", "smsc", "--port", "0", stdin=subprocess.PIPE, text=False)
    processes.append(smsc)
    _, told = smsc.communicate(b"# nothing\n" + line + b"\n", timeout=20)
    assert smsc.returncode == 1
    assert told.decode().endswith(f"kmp-smsd: {sentence}\n")


def test_an_smsc_that_stays_passes_over_a_line_that_is_no_message(site, processes):
    site.ready("K1")
    smsc = site.process("simulator", "smsc", "--port", "0", "--stay", stdin=subprocess.PIPE)
    processes.append(smsc)
    site.link(int(smsc.stderr.readline().rpartition(":")[2]))
    smsc.stdin.write(f"{FIRST}\n{'x' * 5_000} K1:K1\n{FIRST} nonsense\n")
    smsc.stdin.flush()
    assert smsc.stderr.readline() == "kmp-smsd: line 1: write MDN TEXT, as in 8613912345678 K1:KEY-1\n"
    assert smsc.stderr.readline().startswith("kmp-smsd: line 2 has more than 4,096 octets")
    daemon = site.process("intake", stderr=subprocess.DEVNULL)
    processes.append(daemon)
    assert smsc.stdout.readline() == f"ESME_RX_R_APPN (0x66) {FIRST} nonsense\n"
    daemon.terminate()
    assert daemon.wait(20) == 0


def test_an_smsc_that_stays_ends_with_its_signal(site, processes):
    smsc = site.process("simulator", "smsc", "--port", "0", "--stay")
    processes.append(smsc)
    assert "an SMSC listens on 127.0.0.1:" in smsc.stderr.readline()
    smsc.terminate()
    assert smsc.wait(20) in (0, -signal.SIGTERM)  # the signal may come before it waits for one


@pytest.mark.parametrize("text", ["\n", "two words", "ssh-ed25519 AAAA", "ssh-rsa AAAAC3NzaC1lZDI1NTE5"])
def test_a_file_that_is_no_public_key_is_refused(site, text):
    code, told = site.refused("simulator", "platform", str(site.write("x.pub", text)))
    assert code == 1
    assert "x.pub is no SSH public key" in told


def test_a_store_that_cannot_be_made_is_told_in_one_sentence(site):
    public = site.write("ssh.pub", new_identity()[1] + "\n")
    platform = site.process("simulator", "platform", str(public), "--store", str(site.directory / "none" / "held.db"))
    assert platform.communicate(timeout=20) == (
        "",
        f"kmp-smsd: kmp-receive: store: no directory {site.directory}/none: is its volume mounted?\n",
    )
    assert platform.returncode == 1


def test_a_device_without_an_end_is_no_public_key(site):
    code, told = site.refused("simulator", "platform", "/dev/zero")
    assert code == 1
    assert "/dev/zero is no SSH public key" in told


def test_port_that_is_taken_is_told_with_what_to_do(site):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, told = site.refused("simulator", "smsc", "--port", str(port))
    assert code == 1
    assert told == f"port {port} of 127.0.0.1: Address already in use: choose another by --port"


@pytest.fixture
def short():
    """A directory that leaves room for a socket's path."""
    with tempfile.TemporaryDirectory(prefix="kmp-") as directory:
        yield Path(directory)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM])
def test_a_demo_that_is_stopped_or_loses_its_terminal_leaves_nothing(site, short, number):
    demo = site.process("demo", env={**os.environ, "TMPDIR": str(short)}, start_new_session=True)
    try:
        said = "".join(itertools.takewhile(lambda line: "The daemon starts" not in line, demo.stdout))
        ports = [int(port) for port in re.findall(r" at 127\.0\.0\.1:(\d+)", said)]
        assert len(ports) == 2
        assert any(short.iterdir())
        demo.send_signal(number)
        demo.communicate(timeout=30)
        assert demo.returncode == 128 + number
        assert not any(short.iterdir())
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
    finally:
        with suppress(ProcessLookupError):
            os.killpg(demo.pid, signal.SIGKILL)
        demo.communicate()
