"""A platform that is moved from SSH to TLS at a reload, behind stunnel, while both roles work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kmp_smsd.simulator.receiver import receiver_command
from kmp_smsd.simulator.toml import write_toml
from tests.e2e.carrier import Carrier
from tests.stunnel import StunnelServer, new_certificate


@pytest.fixture
def stunnel(own_carrier: Carrier, tmp_path: Path) -> Iterator[StunnelServer]:
    """The second door to the store of the platform metering."""
    certificate, private = new_certificate("kmp")
    identity = own_carrier.directory / "tls-identity"
    identity.touch(mode=0o600)
    identity.write_bytes(certificate + private)
    store = own_carrier.platforms["metering"].store
    server = StunnelServer(tmp_path / "stunnel", receiver_command(store), certificate)
    server.start()
    yield server
    server.stop()


def test_platform_moves_from_ssh_to_tls_without_a_restart(own_carrier: Carrier, stunnel: StunnelServer) -> None:
    before, key_before = own_carrier.terminal("meter")
    own_carrier.say(before, f"K1:{key_before}")
    own_carrier.settled()

    own_carrier.platforms["metering"].server.stop()
    waiting, key_waiting = own_carrier.terminal("meter")
    own_carrier.say(waiting, f"K1:{key_waiting}")
    write_toml(
        own_carrier.directory / "platforms.d" / "metering.toml",
        {
            "apps": ["meter"],
            "retry_min_s": 0.1,
            "retry_max_s": 1.0,
            "channel": {
                "kind": "tls",
                "hosts": [stunnel.address],
                "server_keys": [stunnel.server_key],
                "identity": {"file": str(own_carrier.directory / "tls-identity")},
            },
        },
    )
    assert "platforms.d/metering.toml kind" in own_carrier.command("reload", "--wait").stdout
    own_carrier.settled()

    after, key_after = own_carrier.terminal("meter")
    own_carrier.say(after, f"K1:{key_after}")
    own_carrier.settled()
    own_carrier.command("keys", "revoke", key_before, "--reason", "lost", "--yes")
    own_carrier.settled()
    held = {row["mdn"] for row in own_carrier.platforms["metering"].holds()}
    assert held == {waiting, after}

    stunnel.stop()
    late, key_late = own_carrier.terminal("meter")
    own_carrier.say(late, f"K1:{key_late}")
    own_carrier.wait_for(
        lambda: "Connection refused" in str(own_carrier.listing("platforms", "list")[1]["last_error"]),
        "the host to be found down",
    )
    stunnel.start()
    own_carrier.settled()

    platforms = own_carrier.listing("status")[1]["platforms"]
    (left_s,) = [one["certificate_left_s"] for one in platforms if one["name"] == "metering"]
    assert 364 * 86_400 < left_s < 365 * 86_400

    (tested,) = own_carrier.listing("platforms", "test", "metering")
    assert (tested["ok"], tested["receiver"], tested["fingerprint"]) == (True, "kmp-receive 1", stunnel.server_key)
    told = own_carrier.command("doctor", check=False).stdout
    assert f"{stunnel.address}: kmp-receive 1 answers, its key is {stunnel.server_key}" in told
    assert "our certificate there is valid for 364 days" in told
