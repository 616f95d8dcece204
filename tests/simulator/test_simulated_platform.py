from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import pytest

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import open_channel
from kmp_smsd.channels.protocol import Bind, ChannelDown, Confirmed
from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.simulator.openssh import new_identity
from kmp_smsd.simulator.platform import SimulatedPlatform
from tests.sshd import receiver_command

IDENTITY, PUBLIC = new_identity()


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[SimulatedPlatform]:
    platform = SimulatedPlatform(receiver_command(tmp_path / "keys.db"), PUBLIC)
    platform.start()
    yield platform
    platform.stop()


def connect(platform: SimulatedPlatform, identity: bytes = IDENTITY) -> LineChannel:
    options = SshOptions(kind="ssh", hosts=(platform.address,), user=platform.user, host_keys=(platform.host_key,))
    return open_channel(options, lambda _reference: identity, "lab", Cancel(), time.time, deque())


def binds(count: int) -> list[Bind]:
    return [
        Bind(
            mdn=str(8613900000000 + number),
            app_id="meter",
            version=1,
            key_id="K",
            algorithm="aes",
            kcv="BE7ED6",
            key=number.to_bytes(16, "big"),
        )
        for number in range(count)
    ]


def test_simulated_platform_holds_what_it_confirms(platform: SimulatedPlatform) -> None:
    channel = connect(platform)
    assert [type(result) for result in channel.deliver(binds(500))] == [Confirmed] * 500
    channel.close()


def test_simulated_platform_knows_one_key_only(platform: SimulatedPlatform) -> None:
    with pytest.raises(ChannelDown, match="refused our login"):
        connect(platform, new_identity()[0])


def test_simulated_platform_can_go_away_and_come_back(platform: SimulatedPlatform) -> None:
    channel = connect(platform)
    assert len(list(channel.deliver(binds(10)))) == 10
    platform.stop()
    with pytest.raises(ChannelDown):
        list(channel.deliver(binds(10)))
    with pytest.raises(ChannelDown, match="Connection refused"):
        connect(platform)
    platform.start()
    channel = connect(platform)
    assert len(list(channel.deliver(binds(10)))) == 10
    channel.close()
