"""The master key is replaced on a running installation's files: real roles, real SSH."""

from __future__ import annotations

from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier


def test_keys_from_before_and_after_are_delivered_under_the_new_master_key(own_carrier: Carrier) -> None:
    carrier = own_carrier
    before = [carrier.terminal("meter") for _ in range(2)]
    assert carrier.say(before[0][0], f"K1:{before[0][1]}") == CommandStatus.ESME_ROK
    carrier.settled()
    for role in carrier.roles:
        assert role.stop() == 0
    done = carrier.command("master-key", "rotate", "--yes")
    assert "sealed to it" in done.stdout
    for name in ("intake", "dispatch"):
        carrier.start_role(name)
    for mdn, key in (before[1], carrier.terminal("meter")):
        assert carrier.say(mdn, f"K1:{key}") == CommandStatus.ESME_ROK
        carrier.settled()  # with a receipt that only the right key can have made
        assert carrier.bindings()[mdn, "meter"] == key
