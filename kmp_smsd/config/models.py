"""Every option of the configuration files: the one table from which check, example files and man page are made.

A unit stands in an option's name (``_s`` seconds, ``_octets``). A model is frozen and knows the faults of its own
section; what concerns several sections or files is in load.py.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, model_validator

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import SecretRef, SshOptions
from kmp_smsd.domain.identifiers import APP_ID
from kmp_smsd.domain.numbering import E164_DIGITS_MAX, AddressRules, NumberRange
from kmp_smsd.domain.policy import OnConflict, SyncPolicy


class Section(BaseModel):
    """A table of a file. Values are taken as they are written: ``"10"`` is no number and ``1`` is no text."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, hide_input_in_errors=True, allow_inf_nan=False)


def _ip_address(value: str) -> str:
    try:
        return str(ipaddress.ip_address(value))
    except ValueError:
        raise ValueError(f'"{value}" is not an IP address') from None


def _path(value: object, info: ValidationInfo) -> Path:
    """Relative paths are relative to the file that names them, whose directory is the validation's context."""
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("write a path in quotes")
    directory: Path = (info.context or {})["directory"]
    return directory / value


def _written_as(pattern: str, words: str) -> AfterValidator:
    """Like Field(pattern=...), but the fault says in words what is expected."""

    def check(value: str) -> str:
        if re.fullmatch(pattern, value) is None:
            raise ValueError(f"write {words}")
        return value

    return AfterValidator(check)


def _status(value: int) -> int:
    if value == 0x65:
        raise ValueError(
            "0x65 (ESME_RX_P_APPN) tells the SMSC to give up all messages queued for our short code: "
            "write 0x66 for one message, 0x64 for later"
        )
    return value


def _not_ok(value: int) -> int:
    if value == 0:
        raise ValueError("0x00 tells the SMSC that the message is stored, and it would be lost")
    return value


def _interface_version(value: int) -> int:
    if value not in (0x33, 0x34, 0x50):
        raise ValueError("write 0x33, 0x34 or 0x50, with the 0x: in decimal they are other numbers")
    return value


def _npi(value: int) -> int:
    if value == 6:
        raise ValueError("6 marks an IMSI (E.212), which is never a directory number")
    return value


def _not_below(lower: str) -> AfterValidator:
    """This option is at least the one named `lower`, which stands before it in the model."""

    def check(value: float, info: ValidationInfo) -> float:
        if value < info.data.get(lower, value):
            raise ValueError(f"{value:g} is less than {lower}")
        return value

    return AfterValidator(check)


def is_platform_name(text: str) -> bool:
    """Whether `text` may name a platform or a link."""
    return re.fullmatch(_NAME, text) is not None


_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}"
NAME_IN_WORDS = "1 to 32 letters, digits, - and _, a letter or digit first"

_LIST = Field(strict=False)  # a list in the file is a tuple in the value
ConfPath = Annotated[Path, BeforeValidator(_path)]
Ascii = Annotated[str, _written_as(r"[ -~]*", "printable ASCII characters")]
Octet = Annotated[int, Field(ge=0, le=255)]
Port = Annotated[int, Field(ge=0, le=65535)]
Status = Annotated[int, Field(ge=0, le=0xFFFFFFFF), AfterValidator(_status)]
ShortCode = Annotated[str, _written_as("[0-9]{1,20}", "a short code as 1 to 20 digits")]
AppId = Annotated[str, _written_as(APP_ID.pattern, "an app ID as 1 to 32 of A-Z a-z 0-9 . -")]
LinkName = Annotated[str, _written_as(_NAME, f"a link's name as {NAME_IN_WORDS}")]
InternationalPrefix = Annotated[str, _written_as(r"\+|0[0-9]{1,3}", '"+", or 2 to 4 digits of which the first is 0')]
DataCoding = Annotated[str, _written_as("(0|[1-9][0-9]?|1[0-9][0-9]|2[0-4][0-9]|25[0-5])", "a data_coding as 0 to 255")]


class Storage(Section):
    """Where the daemon keeps what it knows."""

    path: ConfPath = Field(
        default=Path("/var/lib/kmp-smsd/kmp-smsd.db"),
        description="The database file. It is made by `kmp-smsd db migrate` only, and its directory must not be on a "
        "network file system.",
    )


class Secrets(Section):
    """Where the keys of the daemon itself are found. No secret stands in this file."""

    public_key: ConfPath = Field(
        description="File with the public half of the master key, made by `kmp-smsd master-key create`; owned by root, "
        "so that a stolen intake cannot replace it.",
    )
    master_key: SecretRef | None = Field(
        default=None, description="The private half of the master key; dispatch alone reads it."
    )
    ssh_identity: SecretRef | None = Field(
        default=None,
        description="The private SSH key with which we log in at every platform whose file names no other; dispatch "
        "alone reads it.",
    )


class Range(Section):
    """Numbers that begin alike and have the same length."""

    prefix: str = Field(description="First digits, the country code included, without + or 00.")
    digits: int = Field(ge=2, le=E164_DIGITS_MAX, description="Digits of the whole number, the country code included.")
    name: str = Field(max_length=80, description="What the range is for.")

    @model_validator(mode="after")
    def _numbers_can_lie_in_it(self) -> Self:
        _ = self.number_range
        return self

    @property
    def number_range(self) -> NumberRange:
        return NumberRange(self.prefix, self.digits, self.name)


Ranges = Annotated[tuple[Range, ...], _LIST]


class Numbering(Section):
    """Which numbers are legal MDNs: those in a range of the right length. The longest matching prefix decides."""

    country_code: Annotated[str, _written_as("[1-9][0-9]{0,2}", "1 to 3 digits, without + or 00")] = Field(
        description="Our country code, put before national numbers."
    )
    include: Annotated[tuple[ConfPath, ...], _LIST] = Field(
        default=(), description="Files with ranges; numbering/cn.toml and numbering/nanp.toml come with the daemon."
    )
    ranges: Ranges = Field(
        default=(),
        description="More ranges; prefix and digits, which is the length of the whole number, count the country code.",
    )


class NumberingFile(Section):
    """A file that [numbering] includes."""

    ranges: Ranges = Field(min_length=1, description="The ranges, as in [numbering].")


Policy = Literal["held", "refused", "moved"]


class Sync(Section):
    """What a terminal's message may change, and how many messages are taken (docs/rules.rst)."""

    on_sim_change: Policy = Field(
        default="held",
        description="A key reports under another MDN or app than the one it is bound to: held until somebody approves "
        "it, refused, or moved at once.",
    )
    on_terminal_change: Policy = Field(
        default="held",
        description="An MDN and app report another key than the bound one: held, refused or moved, as above.",
    )
    on_late: Literal["held", "refused"] = Field(
        default="held", description="A message that is older than the binding it conflicts with: held or refused."
    )
    late_hours: int = Field(
        default=72,
        ge=1,
        le=8760,
        description="Hours for which the key that was replaced at an MDN and app may only come back as a late message. "
        "SMS arrive out of order.",
    )
    short_codes: Annotated[tuple[ShortCode, ...], _LIST] = Field(
        default=(), description="The destination addresses that are ours. Empty: every one is."
    )
    mdn_burst: int = Field(
        default=10, ge=1, le=10_000, description="Messages taken at once from one MDN; more are left with the SMSC."
    )
    mdn_per_minute: float = Field(
        default=6.0, gt=0, le=60_000, description="Messages per minute taken from one MDN after such a burst."
    )
    batch_max: int = Field(
        default=2000, ge=1, le=2000, description="Messages that are settled in one transaction, at most."
    )

    @property
    def policy(self) -> SyncPolicy:
        """The options that `decide` needs."""
        return SyncPolicy(
            on_sim_change=OnConflict(self.on_sim_change),
            on_terminal_change=OnConflict(self.on_terminal_change),
            on_late=OnConflict(self.on_late),
            late_hours=self.late_hours,
        )


class Link(Section):
    """One connection to an SMSC. Several links may lead to one SMSC, and one link may know several hosts."""

    enabled: bool = Field(default=True, description="false: the link is checked but not used.")
    hosts: Annotated[tuple[Annotated[Host, BeforeValidator(Host.parse)], ...], _LIST] = Field(
        min_length=1, max_length=16, description='The SMSC\'s hosts, as "HOST:PORT", tried in this order.'
    )
    local_address: Annotated[str, AfterValidator(_ip_address)] | None = Field(
        default=None, description="Our IP address to connect from, where the SMSC knows us by it."
    )
    system_id: Ascii = Field(min_length=1, max_length=15, description="Our name at the SMSC.")
    password: SecretRef = Field(description="Our password at the SMSC: where it is found, not what it is.")
    allow_long_password: bool = Field(
        default=False,
        description="SMPP allows 8 characters in a password. true: longer ones are sent too; some SMSCs issue them.",
    )
    bind: Literal["transceiver", "receiver", "auto"] = Field(
        default="auto",
        description="How to bind: transceiver, receiver, or auto: a receiver where the SMSC refuses a transceiver or "
        "does not answer. For an SMSC that hangs up instead, write receiver.",
    )
    system_type: Ascii = Field(default="", max_length=12, description="Our system_type, where the SMSC wants one.")
    interface_version: Annotated[int, AfterValidator(_interface_version)] = Field(
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
        description="Seconds to wait for the answer to a request of ours; without one the link is dropped.",
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
    reconnect_max_s: Annotated[float, _not_below("reconnect_min_s")] = Field(
        default=60.0,
        ge=0.1,
        le=86_400,
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

    temporary_status: Annotated[Status, AfterValidator(_not_ok)] = Field(
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

    unknown_ton: Literal["international", "national", "refuse"] = Field(
        default="international", description="How to read a source address of unknown type (TON 0)."
    )
    international_prefixes: Annotated[tuple[InternationalPrefix, ...], _LIST] = Field(
        default=("+", "00"), description="What may stand before an international number. Empty: nothing may."
    )
    trunk_prefix: Annotated[str, _written_as("[0-9]{0,3}", "up to 3 digits")] = Field(
        default="0", description="What may stand before a national number (TON 2)."
    )
    accepted_npi: Annotated[tuple[Annotated[Octet, AfterValidator(_npi)], ...], _LIST] = Field(
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


class MainFile(Section):
    """kmp-smsd.toml."""

    storage: Storage = Field(default_factory=Storage)
    secrets: Secrets
    numbering: Numbering
    sync: Sync = Field(default_factory=Sync)
    smsc: dict[LinkName, Link] = Field(default={})


ChannelOptions = SshOptions  # the second kind makes this a union, with `kind` as its discriminator


class Platform(Section):
    """platforms.d/NAME.toml: one platform, to which keys are delivered. The file's name is the platform's."""

    enabled: bool = Field(default=True, description="false: the file is checked, and the platform gets nothing.")
    apps: Annotated[tuple[AppId, ...], _LIST] = Field(
        min_length=1,
        max_length=1000,
        description="The app IDs whose keys this platform gets. An app is in one file only.",
    )
    retry_min_s: float = Field(
        default=5.0,
        ge=0.1,
        le=3600,
        description="Seconds before a failed delivery is tried again; they double each time.",
    )
    retry_max_s: Annotated[float, _not_below("retry_min_s")] = Field(
        default=900.0, ge=1, le=86_400, description="Seconds between tries, at most."
    )
    channel: ChannelOptions = Field(description="How the platform is reached.")
