"""A platform behind stunnel: without one its tests are skipped at home, and fail in CI."""

from __future__ import annotations

import datetime
import os
import shlex
import shutil
import signal
import ssl
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from kmp_smsd.channels.cancel import closing_at
from kmp_smsd.channels.certificate import public_key_of
from kmp_smsd.channels.tls_options import ServerKey
from kmp_smsd.simulator.ports import ReservedPort

P256 = ec.SECP256R1()
STARTED_WITHIN_S = 20.0
LISTENING = "Configuration successful"  # told once the ports are bound


def new_certificate(name: str, days: int = 365, curve: ec.EllipticCurve = P256) -> tuple[bytes, bytes]:
    """A new certificate of its own making for `name`, valid for so many days from now on, and its private key, in PEM.

    A certificate of days below 0 has expired.
    """
    key = ec.generate_private_key(curve)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1 + abs(days)))
        .not_valid_after(now + datetime.timedelta(days=days))
        .sign(key, SHA256())
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), private


class Stunnel:
    """One stunnel, with its configuration in `directory`."""

    def __init__(self, directory: Path) -> None:
        if shutil.which("stunnel") is None:
            if os.environ.get("CI"):
                pytest.fail("CI must have stunnel")
            pytest.skip("no stunnel on this machine (Debian: stunnel4)")
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def run(self, config: str) -> None:
        """Start it, and wait until it listens."""
        file = self.directory / "stunnel.conf"
        file.write_text(config)
        self._process = subprocess.Popen(
            ["stunnel", file], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )
        assert self._process.stderr is not None
        said: list[str] = []
        with closing_at(time.monotonic() + STARTED_WITHIN_S, self._process.kill):
            for line in self._process.stderr:
                said.append(line.decode())
                if LISTENING in said[-1]:
                    break
            else:
                raise RuntimeError(f"stunnel does not start: {''.join(said)[-2000:]}")
        self._reader = threading.Thread(target=self._process.stderr.read, daemon=True)
        self._reader.start()

    def stop(self) -> None:
        """End it and all that it runs, as a host that goes down."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._reader.join()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def kill_children(self) -> None:
        """SIGKILL to all that it runs."""
        assert self._process is not None
        subprocess.run(["pkill", "-KILL", "-P", str(self._process.pid)], check=False)


class StunnelServer:
    """One stunnel with its files in `directory`, that runs `command` for the holder of `client`, a certificate in PEM.

    `address` is for `hosts` of a platform file, `server_key` for `server_keys`.
    """

    def __init__(self, directory: Path, command: Sequence[str], client: bytes) -> None:
        self._stunnel = Stunnel(directory)
        self.directory = directory
        self._reserved = ReservedPort()
        self.options = ["sslVersionMin = TLSv1.3"]
        self.command(command)
        certificate, private = new_certificate("keys.example")
        self.server_key = ServerKey.of(public_key_of(ssl.PEM_cert_to_DER_cert(certificate.decode()))).text()
        (directory / "server.pem").touch(mode=0o600)
        (directory / "server.pem").write_bytes(certificate + private)
        (directory / "client.pem").write_bytes(client)

    @property
    def port(self) -> int:
        return self._reserved.number

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def command(self, command: Sequence[str]) -> None:
        """Run `command` from the next connection on."""
        (self.directory / "receiver").write_text(f"exec {shlex.join(command)}\n")

    def start(self) -> None:
        """Start listening, always on the same port."""
        self._stunnel.run(
            "\n".join(
                [
                    "foreground = yes",  # and standard error stays apart from what goes through the tunnel
                    "pid =",
                    "[kmp]",
                    f"accept = 127.0.0.1:{self.port}",
                    f"cert = {self.directory}/server.pem",
                    f"CAfile = {self.directory}/client.pem",
                    "verifyPeer = yes",
                    "exec = /bin/sh",
                    f"execArgs = sh {self.directory}/receiver",
                    *self.options,
                    "",
                ]
            )
        )

    def stop(self) -> None:
        """End the listener and all of its receivers, as a host that goes down."""
        self._stunnel.stop()

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill_receivers(self) -> None:
        """SIGKILL to every running receiver."""
        self._stunnel.kill_children()
