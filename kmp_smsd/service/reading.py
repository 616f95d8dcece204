"""From a PDU to a request: rows 1 to 4 of docs/rules.rst."""

from __future__ import annotations

from kmp_smsd.config.link import Link
from kmp_smsd.config.sync import Sync
from kmp_smsd.domain.numbering import NumberingPlan
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import MAX_PAYLOAD_OCTETS, parse_payload
from kmp_smsd.domain.reply import ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit, sender_class
from kmp_smsd.smpp.constants import MESSAGE_TYPE, Tag
from kmp_smsd.smpp.errors import PduError
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.smpp.submit import MAX_ADDRESS
from kmp_smsd.smpp.text import DATA_CODINGS, Alphabet, UserData, read_user_data, reads_like_receipt

_ALPHABETS = {"octets": None, "ucs2": Alphabet.UCS2, "ucs2-le": Alphabet.UCS2_LITTLE_ENDIAN}


def accepted_origins(link: Link) -> dict[int, tuple[int, ...]]:
    """The parameters that a message of a terminal has at this link, by tag, and their values; none: nobody looks."""
    named = {
        Tag.SOURCE_NETWORK_TYPE: link.accepted_network_types,
        Tag.SOURCE_BEARER_TYPE: link.accepted_bearer_types,
    }
    return {int(tag): values for tag, values in named.items() if values}


class Reader:
    """Reads what comes by one link. Past it nobody sees a raw number or a raw payload."""

    def __init__(self, link_name: str, link: Link, sync: Sync, plan: NumberingPlan) -> None:
        self._link_name = link_name
        self._plan = plan
        self._address_rules = link.address_rules
        self._short_codes = frozenset(sync.short_codes)
        self._origins = accepted_origins(link)
        self._receipts_by_text = link.receipts_by_text
        self._destination_port = link.destination_port
        self._replies = link.reply != "never"
        overrides = {coding: _ALPHABETS[reading] for coding, reading in link.data_codings.items()}
        self._alphabets = {**DATA_CODINGS, **overrides}

    def read(self, message: Message, received_at: int) -> SyncRequest | Unfit:
        """Return what `message` asks for, or how it ended; `received_at` in Unix milliseconds."""
        if message.esm_class & MESSAGE_TYPE or (self._receipts_by_text and reads_like_receipt(message)):
            return self._unfit(Outcome.RECEIPT, received_at)
        if self._short_codes and message.destination_addr.removeprefix("+") not in self._short_codes:
            return self._unfit(Outcome.NOT_FOR_US, received_at, why="not one of our short codes")
        if self._origins and not self._is_of_a_terminal(message):
            return self._unfit(Outcome.NOT_FOR_US, received_at, why="not of an accepted network or bearer")
        mdn = self._plan.canonical(
            message.source_addr, message.source_addr_ton, message.source_addr_npi, self._address_rules
        )
        if mdn is None:
            return self._unfit(Outcome.INVALID_MDN, received_at, sender=sender_class(message.source_addr))
        try:
            user_data = read_user_data(message, self._alphabets)
        except PduError as error:
            return self._unfit(Outcome.MALFORMED, received_at, mdn, why=str(error))
        if self._destination_port is not None and user_data.destination_port != self._destination_port:
            return self._unfit(Outcome.NOT_FOR_US, received_at, mdn, why="another application port")
        if user_data.concatenated:
            return self._unfit(Outcome.MALFORMED, received_at, mdn, why="one of several parts")
        payload = parse_payload(user_data.octets)
        if payload is None:
            long = len(user_data.octets.rstrip(b"\0 \r\n")) > MAX_PAYLOAD_OCTETS
            return self._unfit(Outcome.MALFORMED, received_at, mdn, why="too long" if long else "not a sync payload")
        reply_to = _reply_to(message, user_data) if self._replies else None
        return SyncRequest(mdn, payload.key_id, received_at, self._link_name, payload.app_id, payload.proof, reply_to)

    def _is_of_a_terminal(self, message: Message) -> bool:
        """As far as the SMSC tells: each parameter is there, and says nothing else than what is accepted."""
        told = {tag: [int.from_bytes(value, "big") for value in message.tlv(tag)] for tag in self._origins}
        return all(told[tag] and set(told[tag]) <= set(values) for tag, values in self._origins.items())

    def _unfit(
        self, outcome: Outcome, received_at: int, mdn: str | None = None, sender: str = "", why: str = ""
    ) -> Unfit:
        return Unfit(outcome=outcome, mdn=mdn, sender=sender, received_at=received_at, link=self._link_name, why=why)


def _reply_to(message: Message, user_data: UserData) -> ReplyTo | None:
    """The way back. A data_sm may name addresses that no submit_sm holds: such a message has none."""
    if max(len(message.source_addr), len(message.destination_addr)) > MAX_ADDRESS:
        return None
    ports = user_data.source_port, user_data.destination_port
    return ReplyTo(
        message.source_addr_ton,
        message.source_addr_npi,
        message.source_addr,
        message.dest_addr_ton,
        message.dest_addr_npi,
        message.destination_addr,
        *(ports if None not in ports else ()),
    )
