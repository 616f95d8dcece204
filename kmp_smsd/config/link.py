"""[smsc.NAME] of kmp-smsd.toml."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, BeforeValidator, Field, ValidationInfo

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.link_values import (
    Ascii,
    DataCoding,
    InterfaceVersion,
    InternationalPrefix,
    IpAddress,
    Npi,
    Octet,
    Port,
    Status,
    TemporaryStatus,
)
from kmp_smsd.config.section import LIST, Reload, Section, not_below, written_as
from kmp_smsd.domain.numbering import AddressRules


def _can_submit(reply: str, info: ValidationInfo) -> str:
    if reply != "never" and info.data.get("bind") == "receiver":
        raise ValueError('a receiver cannot reply: bind = "transceiver" or "pair" can')
    return reply


class Link(Section):
    """One connection to an SMSC. Several links may lead to one SMSC, and one link may know several hosts."""

    reload: ClassVar[Reload] = Reload.LINK
    role: ClassVar[str] = "intake"

    enabled: bool = Field(default=True, description="false: the link is checked but not used.")
    hosts: Annotated[tuple[Annotated[Host, BeforeValidator(Host.parse)], ...], LIST] = Field(
        min_length=1,
        max_length=16,
        description="The SMSC's hosts, as HOST:PORT (IPv6 as [ADDRESS]:PORT; a name means its IPv4 address), tried in"
        " this order.",
    )
    local_address: IpAddress | None = Field(
        default=None, description="Our IP address to connect from, where the SMSC knows us by it."
    )
    system_id: Ascii = Field(min_length=1, max_length=15, description="Our name at the SMSC.")
    password: SecretRef = Field(description="Our password at the SMSC: where it is found, not what it is.")
    allow_long_password: bool = Field(
        default=False,
        description="SMPP allows 8 characters in a password. true: longer ones are sent too; some SMSCs issue them.",
    )
    allow_empty_password: bool = Field(
        default=False,
        description="An empty password is most often a file that was not filled in. true: it is sent; some SMSCs want "
        "none.",
    )
    bind: Literal["transceiver", "receiver", "pair", "auto"] = Field(
        default="auto",
        description="How to bind: transceiver; receiver; pair: a receiver, and a transmitter beside it on a connection "
        "of its own; or auto: a receiver where the SMSC refuses a transceiver or does not answer. For an SMSC that "
        "hangs up instead, write receiver or pair.",
    )
    system_type: Ascii = Field(default="", max_length=12, description="Our system_type, where the SMSC wants one.")
    interface_version: InterfaceVersion = Field(
        default=0x34, description="The version of SMPP that we name: 0x33, 0x34 or 0x50."
    )
    addr_ton: Octet = Field(default=0, description="Type of number of address_range.")
    addr_npi: Octet = Field(default=0, description="Numbering plan indicator of address_range.")
    address_range: Ascii = Field(
        default="", max_length=40, description="The addresses we serve, as the SMSC wants them; often our short code."
    )

    connect_timeout_s: float = Field(default=10.0, ge=0.1, le=300, description="Seconds to wait for a TCP connection.")
    bind_timeout_s: float = Field(
        default=30.0, ge=0.1, le=300, description="Seconds to wait for the answer to our bind."
    )
    enquire_after_s: float = Field(
        default=30.0,
        ge=0,
        le=3600,
        description="Seconds of silence after which we ask whether the SMSC lives. 0: never.",
    )
    response_timeout_s: float = Field(
        default=10.0,
        ge=0.1,
        le=300,
        description="Seconds to wait for the answer to a request of ours; without one the link is dropped. Only a "
        "reply to a terminal is given up instead: it may have been sent (state unknown), and is not sent again.",
    )
    pdu_timeout_s: float = Field(
        default=10.0, ge=0.1, le=300, description="Seconds in which a PDU that has begun must be complete."
    )
    unbind_timeout_s: float = Field(
        default=5.0,
        ge=0.1,
        le=60,
        description="Seconds in which the last messages are answered and the SMSC agrees to part.",
    )

    reconnect_min_s: float = Field(default=1.0, ge=0.1, le=3600, description="Seconds before the first new attempt.")
    reconnect_max_s: Annotated[float, not_below("reconnect_min_s")] = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
        validate_default=True,
        description="Seconds between attempts, at most; they double from attempt to attempt.",
    )
    reconnect_refused_s: float = Field(
        default=300.0,
        ge=1,
        le=86_400,
        description="Seconds before the next attempt when the SMSC refuses our system_id, password or system_type; "
        "many SMSCs ban an address that hurries.",
    )
    reconnect_already_bound_s: float = Field(
        default=120.0,
        ge=1,
        le=86_400,
        description="Seconds before the next attempt when the SMSC says that we are bound already: it has to notice "
        "first that our last connection is dead.",
    )
    stable_after_s: float = Field(
        default=30.0, ge=0, le=3600, description="Seconds that a bind must last before the waiting times begin anew."
    )

    temporary_status: TemporaryStatus = Field(
        default=0x64,
        description="The command_status with which this SMSC keeps a message and sends it again: ask its operator. "
        "0x64 by the specification; 0x58, 0x14 and 0x08 are met too.",
    )
    never_status: Status = Field(
        default=0x66,
        description="The command_status with which this SMSC gives up one message. 0x00 where the operator counts "
        "failures against us.",
    )
    answer_within_s: float = Field(
        default=2.0,
        ge=0.1,
        le=60,
        description="Seconds in which every message gets its answer; when our store is slower, temporary_status.",
    )
    failures_before_unbind: int = Field(
        default=5,
        ge=1,
        le=10_000,
        description="How many times in a row messages are left with this SMSC because of our store, before the link "
        "unbinds and waits.",
    )
    in_flight_max: int = Field(
        default=10_000, ge=1, le=100_000, description="Messages in work at once; more get temporary_status."
    )
    rate_per_s: int = Field(
        default=0, ge=0, le=1_000_000, description="Messages per second; more get temporary_status. 0: no limit."
    )
    max_pdu_octets: int = Field(
        default=70_000,
        ge=512,
        le=1_048_576,
        description="The longest PDU taken, in octets; a longer one ends the connection.",
    )

    reply: Annotated[Literal["never", "confirmed"], AfterValidator(_can_submit)] = Field(
        default="never",
        description="Whether terminals of this SMSC are told by SMS that their key is at the platform: never, or once "
        "the platform has confirmed it (docs/replies.rst).",
    )
    reply_window: int = Field(
        default=10, ge=1, le=1000, description="Replies that this SMSC has not answered yet, at most."
    )
    reply_per_s: float = Field(default=10.0, gt=0, le=10_000, description="Replies per second, at most.")
    replies_a_day: int = Field(
        default=0,
        ge=0,
        le=100_000_000,
        description="Replies in any 24 hours, at most; the others wait until they expire. 0: no limit.",
    )

    data_coding: dict[DataCoding, Literal["octets", "ucs2", "ucs2-le"]] = Field(
        default={},
        description='How to read messages of a data_coding that this SMSC uses in its own way, as in {"0" = "ucs2"}: '
        "octets, ucs2 or ucs2-le. Without an entry 8 is ucs2 and all others are octets.",
    )
    receipts_by_text: bool = Field(
        default=False,
        description="true: a message with the text of a delivery receipt is one, even where esm_class does not say so.",
    )
    destination_port: Port | None = Field(
        default=None,
        description="Only messages to this application port are ours. Without it: all, with or without port.",
    )
    accepted_network_types: Annotated[tuple[Octet, ...], LIST] = Field(
        default=(),
        description="Only messages with one of these values of source_network_type are ours, where this SMSC tells by "
        "it what terminals send from what other ESMEs do: 1 GSM, 3 CDMA. Empty: all, with or without it.",
    )
    accepted_bearer_types: Annotated[tuple[Octet, ...], LIST] = Field(
        default=(), description="The same of source_bearer_type: 1 SMS, 4 USSD. Empty: all, with or without it."
    )

    unknown_ton: Literal["international", "national", "refuse"] = Field(
        default="international",
        description="How to read a source address of unknown type (TON 0). "
        "`national`: only where this SMSC sends none but our own country's numbers so, since a foreign number that "
        "looks national is taken for ours.",
    )
    international_prefixes: Annotated[tuple[InternationalPrefix, ...], LIST] = Field(
        default=("+", "00"), description="What may stand before an international number. Empty: nothing may."
    )
    trunk_prefix: Annotated[str, written_as("[0-9]{0,3}", "up to 3 digits")] = Field(
        default="0", description="What may stand before a national number (TON 2)."
    )
    accepted_npi: Annotated[tuple[Npi, ...], LIST] = Field(
        default=(0, 1), min_length=1, description="Numbering plan indicators of numbers: 0 unknown, 1 E.164."
    )

    @property
    def data_codings(self) -> Mapping[int, str]:
        """data_coding -> how its messages are read: the overrides only."""
        return {int(coding): reading for coding, reading in self.data_coding.items()}

    @property
    def address_rules(self) -> AddressRules:
        """How this SMSC writes source addresses."""
        return AddressRules(
            unknown_ton=self.unknown_ton,
            international_prefixes=self.international_prefixes,
            trunk_prefix=self.trunk_prefix,
            accepted_npi=frozenset(self.accepted_npi),
        )
