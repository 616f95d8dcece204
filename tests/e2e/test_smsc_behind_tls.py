"""An SMSC that is reached through conf/stunnel-smsc.conf."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from kmp_smsd.simulator.ports import ReservedPort
from tests.e2e.carrier import Carrier
from tests.stunnel import Stunnel, new_certificate

EXAMPLE = Path(__file__).resolve().parents[2] / "conf" / "stunnel-smsc.conf"


@pytest.fixture
def carrier(tmp_path: Path) -> Iterator[Carrier]:
    """Its link leads to the near end of the tunnel."""
    near_port, far_port = ReservedPort(), ReservedPort()
    certificate, private = new_certificate("smsc.example")
    (tmp_path / "far.pem").write_bytes(certificate + private)
    (tmp_path / "ca.pem").write_bytes(certificate)
    text = EXAMPLE.read_text(encoding="utf-8")
    for written, ours in (
        ("127.0.0.1:2775\n;", f"127.0.0.1:{near_port.number}\n;"),
        ("smsc.example:3550", f"127.0.0.1:{far_port.number}"),
        ("/etc/stunnel/smsc-north-ca.pem", f"{tmp_path}/ca.pem"),
        ("setuid = stunnel4\nsetgid = stunnel4\n", "" if os.geteuid() else "setuid = stunnel4\nsetgid = stunnel4\n"),
    ):
        assert text.count(written) == 1
        text = text.replace(written, ours)
    with ExitStack() as opened:
        near, far = Stunnel(tmp_path / "near"), Stunnel(tmp_path / "far")
        opened.callback(near.stop)
        opened.callback(far.stop)
        one = opened.enter_context(Carrier(tmp_path / "carrier", link={"hosts": [f"127.0.0.1:{near_port.number}"]}))
        server = f"accept = 127.0.0.1:{far_port.number}\nconnect = 127.0.0.1:{one.smsc.port}\n"
        far.run(f"foreground = yes\npid =\n[far]\n{server}cert = {tmp_path}/far.pem\n")
        near.run(text)
        yield one


def test_messages_come_through_the_tunnel_of_the_example(carrier: Carrier) -> None:
    carrier.start_role("dispatch")
    carrier.start_role("intake")
    mdn, key = carrier.terminal("meter")
    carrier.say(mdn, f"K1:{key}")
    carrier.settled()
    assert {row["mdn"] for row in carrier.platforms["metering"].holds()} == {mdn}
