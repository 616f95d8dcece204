"""Kannel's drive_smpp: a peer that does nothing but what Kannel's authors wrote."""

from __future__ import annotations

from kmp_smsd.smpp.constants import CommandId, CommandStatus
from tests.peers.peers import DriveSmpp, bearerbox, pdus

MESSAGES = 150
NEVER = CommandStatus.ESME_RX_R_APPN
# drive_smpp sends 1, 2, 3... from 456 to 123: where 456 is a subscriber, all that is wrong with it is the text.
PLAN = {"ranges": [{"prefix": "8613", "digits": 13, "name": "mobile"}, {"prefix": "45", "digits": 3, "name": "Kannel"}]}
SYNC = {"short_codes": ["123"], "mdn_burst": 10_000}
RECEIPTED_MESSAGE_ID = b"\x00\x1e\x00\x15receipted_message_id\x00"


def test_each_message_of_drive_smpp_is_answered_and_none_is_taken_for_a_receipt(lab_with):
    lab = lab_with(link={"bind": "receiver", "enquire_after_s": 0.2}, numbering=PLAN, sync=SYNC)
    tap = lab.tap
    with bearerbox(), DriveSmpp(MESSAGES) as smsc:
        lab.attach(smsc.port)
        tap.wait_for("answers", lambda: len(tap.said(CommandId.DELIVER_SM_RESP)) == MESSAGES)
        tap.wait_for("answers to enquire_link", lambda: len(tap.said(CommandId.ENQUIRE_LINK_RESP)) == MESSAGES)
        wire = tap.wires[-1]
        asked = pdus(wire.from_smsc)
        messages = [each for each in asked if each.command_id == CommandId.DELIVER_SM]
        assert all(each.body.endswith(RECEIPTED_MESSAGE_ID) for each in messages)
        answers = {each.sequence_number: each.command_status for each in tap.said(CommandId.DELIVER_SM_RESP)}
        assert answers == {each.sequence_number: NEVER for each in messages}
        enquired = [each.sequence_number for each in asked if each.command_id == CommandId.ENQUIRE_LINK]
        assert [each.sequence_number for each in tap.said(CommandId.ENQUIRE_LINK_RESP)] == enquired
        assert lab.counted() == {"malformed": MESSAGES}
        tap.wait_for("us to enquire twice", lambda: len(tap.said(CommandId.ENQUIRE_LINK)) >= 2)
        assert len(tap.wires) == 1
        assert lab.roles[0].stop() == 0
        assert [each.command_id for each in pdus(wire.from_daemon)][-1] == CommandId.UNBIND
        assert pdus(wire.from_smsc)[-1].command_id == CommandId.UNBIND_RESP


def test_drive_smpp_that_is_killed_finds_the_daemon_again(lab_with):
    lab = lab_with(link={"bind": "receiver"}, numbering=PLAN, sync=SYNC)
    tap = lab.tap
    with bearerbox():
        with DriveSmpp(1_000_000) as first:
            lab.attach(first.port)
            tap.wait_for("answers", lambda: len(tap.said(CommandId.DELIVER_SM_RESP)) >= MESSAGES)
            tap.shut()
        with DriveSmpp(MESSAGES) as second:
            lab.attach(second.port)
            tap.wait_for("answers", lambda: len(tap.said(CommandId.DELIVER_SM_RESP)) == MESSAGES)
            assert {each.command_status for each in tap.said(CommandId.DELIVER_SM_RESP)} == {NEVER}


def test_smsc_that_leaves_bind_transceiver_unanswered_is_bound_to_as_a_receiver(lab_with):
    lab = lab_with(link={"bind": "auto", "bind_timeout_s": 3.0}, numbering=PLAN, sync=SYNC)
    tap = lab.tap
    with bearerbox():
        with DriveSmpp(MESSAGES) as first:  # it ends with its first connection
            lab.attach(first.port)
            tap.wait_for("bind_transceiver", lambda: tap.said(CommandId.BIND_TRANSCEIVER))
            tap.shut()
            tap.wait_for("the daemon to give up", lambda: not tap.wires[0].open)
        with DriveSmpp(MESSAGES) as second:
            lab.attach(second.port)
            tap.wait_for("answers", lambda: len(tap.said(CommandId.DELIVER_SM_RESP)) == MESSAGES)
            assert len(tap.said(CommandId.BIND_RECEIVER)) == 1
