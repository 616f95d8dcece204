"""A receiver behind conf/stunnel-platform.conf, and a KMP that is cut off."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from kmp_smsd.channels.tls_connection import TlsConnection
from kmp_smsd.channels.tls_identity import load_identity
from kmp_smsd.simulator.ports import ReservedPort
from tests.stunnel import Stunnel, new_certificate

EXAMPLE = Path(__file__).resolve().parents[2] / "conf" / "stunnel-platform.conf"


def test_receiver_is_told_of_the_end_of_a_connection_on_which_nobody_speaks_any_more(tmp_path: Path) -> None:
    port = ReservedPort()
    certificate, private = new_certificate("keys.example")
    ours = new_certificate("kmp")
    (tmp_path / "kmp-server.pem").write_bytes(certificate)
    (tmp_path / "kmp-server.key").touch(mode=0o600)
    (tmp_path / "kmp-server.key").write_bytes(private)
    (tmp_path / "kmp-clients.pem").write_bytes(ours[0])
    text = EXAMPLE.read_text(encoding="utf-8").replace("/etc/stunnel", str(tmp_path))
    for written, here in (
        ("accept = 4443", f"accept = 127.0.0.1:{port.number}"),
        ("/run/kmp-receive.sock", f"{tmp_path}/socket"),
        ("setuid = stunnel4\nsetgid = stunnel4\n", ""),
        ("TIMEOUTidle = 300", "TIMEOUTidle = 1"),
    ):
        assert text.count(written) == 1
        text = text.replace(written, here)
    stunnel = Stunnel(tmp_path / "stunnel")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{tmp_path}/socket")
        listening.listen()
        stunnel.run(text)
        context = load_identity(b"".join(ours)).context
        connection = TlsConnection(socket.create_connection(("127.0.0.1", port.number)), context, "keys.example")
        try:
            connection.handshake(time.monotonic() + 20)
            with listening.accept()[0] as receiver:
                receiver.settimeout(20)
                connection.send(b"half a li", within_s=20)
                assert receiver.recv(100) == b"half a li"
                assert receiver.recv(100) == b""
            with pytest.raises(ConnectionResetError):
                connection.receive(time.monotonic() + 20)
        finally:
            connection.close()
            stunnel.stop()
