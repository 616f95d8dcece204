"""SMSCs on Net::SMPP and on npm's smpp: what the SMSC is answered, and what is on disk then."""

from __future__ import annotations

from kmp_smsd.simulator.lab import SMPP_PASSWORD
from kmp_smsd.smpp.constants import CommandId, CommandStatus
from tests.peers.conftest import mo

ROK, NEVER = CommandStatus.ESME_ROK, CommandStatus.ESME_RX_R_APPN


def test_each_of_many_messages_gets_its_right_answer(start_lab, start_peer):
    peer, lab = start_peer(), start_lab(meter=True)
    terminals = lab.terminals(60)
    lab.tap.open(peer.port)
    role = lab.start_role_unbound("run")
    bind = peer.bound()
    assert bind["command_id"] == CommandId.BIND_TRANSCEIVER
    assert (bind["system_id"], bind["password"], bind["interface_version"]) == ("kmp", SMPP_PASSWORD, 0x34)
    orders, expected = [], []
    for mdn, key in terminals:
        orders.append((mdn, f"K1:{key}"))
        expected.append(ROK)  # bound
    for mdn, key in terminals[:30]:
        orders.append((mdn, f"K1:{key}:meter"))
        expected.append(ROK)  # already_bound
    for mdn, _ in terminals[:20]:
        orders.append((mdn, "Hello"))
        expected.append(NEVER)  # malformed
    for number in range(20):
        orders.append((f"86139{number:08d}", "K1:KEY-0001"))
        expected.append(ROK)  # not_registered
    for number in range(10):
        orders.append((f"1555{number:07d}", "K1:KEY-0001"))
        expected.append(NEVER)  # invalid_mdn
    peer.order(*(mo(number, *order) for number, order in enumerate(orders, 1)))
    assert peer.answers(*range(1, len(orders) + 1)) == expected
    assert lab.counted() == {
        "bound": 60, "already_bound": 30, "malformed": 20, "not_registered": 20, "invalid_mdn": 10,
    }  # fmt: skip
    assert lab.bindings() == dict(terminals)
    lab.wait_for(lab.nothing_due, "every delivery to be confirmed")
    assert {row["mdn"]: row["key_id"] for row in lab.platforms["metering"].holds()} == dict(terminals)
    assert role.stop() == 0
    assert len(peer.heard(CommandId.UNBIND)) == 1
