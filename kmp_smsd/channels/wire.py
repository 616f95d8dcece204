"""The lines of the platform protocol (docs/platform-protocol.rst): one JSON object each. Pure: no I/O, no clock."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import Any, Final, TypeGuard

from kmp_smsd.channels.hiding import presentable
from kmp_smsd.channels.protocol import Bind, Confirmed, Delivery, Rejected, Result, TryLater
from kmp_smsd.domain.spans import DAY_MS
from kmp_smsd.vault.receipt import receipt_matches

PROTOCOL: Final = 1
MAX_INTEGER: Final = 2**63 - 1
EXCERPT_OCTETS: Final = 80
LEAST_MAX_LINE_OCTETS: Final = 1_024  # the longest delivery has less than half of it
LONGEST_RETRY_S: Final = 86_400.0
VERSION_AHEAD_MS: Final = DAY_MS  # a version is Unix milliseconds: one day ahead of our clock is absurd


class WireError(Exception):
    """The peer does not speak the protocol: close the channel. The text is safe to show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """What the receiver said of itself: its name, its window in deliveries, its longest line in octets."""

    receiver: str
    window: int
    max_line: int


@dataclass(frozen=True, slots=True)
class Answer:
    """A line that belongs to question `id`; whether it means anything is for `judge` to say."""

    id: int
    fields: dict[str, Any] = field(repr=False)


_text = encode_basestring_ascii  # a text as JSON has it, in quotes


def encode_hello(kmp: str, window: int) -> bytes:
    """Our first line: the protocol's version, our name and how many deliveries we keep unanswered."""
    return f'{{"v":{PROTOCOL},"type":"hello","kmp":{_text(kmp)},"window":{window}}}\n'.encode()


def encode_delivery(number: int, delivery: Delivery) -> bytes:
    """The line of `delivery` under `number`, line feed included. It holds a key in clear: never log it."""
    # Each field by itself, since json.dumps takes four times as long.
    place = f'"mdn":{_text(delivery.mdn)},"app_id":{_text(delivery.app_id)},"version":{delivery.version}'
    if not isinstance(delivery, Bind):
        return f'{{"id":{number},"type":"withdraw",{place}}}\n'.encode()
    key = base64.urlsafe_b64encode(delivery.key).rstrip(b"=").decode()
    return (
        f'{{"id":{number},"type":"bind",{place},"key_id":{_text(delivery.key_id)},'
        f'"alg":{_text(delivery.algorithm)},"key":"{key}","kcv":{_text(delivery.kcv)}}}\n'
    ).encode()


def parse_hello(line: bytes, keys: Iterable[bytes]) -> Hello:
    """Read the receiver's first line; `keys` never show in what is made of it.

    Raises WireError where it is none, of another version, or takes no delivery.
    """
    fields = _object(line, keys)
    if fields.get("type") != "hello":
        raise WireError(f"the first line is not a hello: {excerpt(line, keys)}")
    if not _is_integer(fields.get("v")) or fields["v"] != PROTOCOL:
        raise WireError(f"the receiver speaks another version of the protocol than {PROTOCOL}: {excerpt(line, keys)}")
    receiver, window, max_line = fields.get("receiver"), fields.get("window"), fields.get("max_line")
    if not (isinstance(receiver, str) and _is_integer(window) and _is_integer(max_line) and window and max_line):
        raise WireError(f"receiver, window or max_line of the hello is missing or wrong: {excerpt(line, keys)}")
    if max_line < LEAST_MAX_LINE_OCTETS:
        raise WireError(
            f"the receiver takes lines of {max_line} octets only (max_line of its hello); "
            f"a delivery needs {LEAST_MAX_LINE_OCTETS}"
        )
    return Hello(receiver=presentable(receiver, keys), window=window, max_line=max_line)


def parse_answer(line: bytes, keys: Iterable[bytes]) -> Answer:
    """Read one answer. Raises WireError where it is no JSON object with an id; `keys` never show in its text."""
    fields = _object(line, keys)
    number = fields.get("id")
    if not _is_integer(number):
        raise WireError(f"an answer without an id: {excerpt(line, keys)}")
    return Answer(number, fields)


def judge(answer: Answer, delivery: Delivery, now_s: float) -> Result:
    """Say what `answer` means for `delivery`; `now_s` is our clock, Unix seconds.

    A wrong or missing receipt is Rejected with an alarm and not TryLater: the platform claims to hold a key and
    cannot prove it, so each further try would hand the key in clear to a peer that lies or loses, for ever and
    unseen. Rejected stops that and waits for a person; the alarm tells them.

    An answer that the protocol does not have is TryLater: it proves nothing against the platform, its neighbours
    are answered as usual, and an upgraded receiver may answer it well.
    """
    match answer.fields.get("status"):
        case "stored" if isinstance(delivery, Bind):
            proof = answer.fields.get("receipt")
            if not isinstance(proof, str):
                return Rejected(delivery, "stored without a receipt", alarm=True)
            binding = (delivery.mdn, delivery.app_id, delivery.key_id, delivery.version)
            if not receipt_matches(proof, delivery.key, *binding):
                return Rejected(delivery, "wrong receipt: the platform does not hold this key", alarm=True)
            return Confirmed(delivery)
        case "removed" if not isinstance(delivery, Bind):
            return Confirmed(delivery)
        case "stale":
            return _stale(answer.fields.get("version"), delivery, now_s)
        case "retry":
            return TryLater(
                delivery, _reason(answer, delivery), retry_after_s=_seconds(answer.fields.get("retry_after_s"))
            )
        case "rejected":
            return Rejected(delivery, _reason(answer, delivery))
        case str(status):
            return TryLater(delivery, f"answered {presentable(status, _keys(delivery))!r}, which is no answer to this")
        case _:
            return TryLater(delivery, "answered without a status that is text")


def excerpt(line: bytes, keys: Iterable[bytes]) -> str:
    """The first 80 octets of `line`, as far as they may be shown in an error text."""
    return presentable(line.decode("latin-1"), keys, characters=EXCERPT_OCTETS)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name stands twice")
    return fields


def _constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_constant)


def _object(line: bytes, keys: Iterable[bytes]) -> dict[str, Any]:
    try:
        fields = _decoder.decode(line.decode("utf-8"))
    except (ValueError, RecursionError):
        # `from None`: the decoder's error carries the whole line, which may hold a key.
        raise WireError(f"not JSON: {excerpt(line, keys)}") from None
    if not isinstance(fields, dict):
        raise WireError(f"not a JSON object: {excerpt(line, keys)}")
    return fields


def _is_integer(value: Any) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_INTEGER


def _seconds(value: Any) -> float | None:
    """A time of the peer, at most a day; None where it is none. An integer may be too large for a float: cut first."""
    if type(value) not in (int, float) or not value >= 0:
        return None
    return float(min(value, LONGEST_RETRY_S))


def _stale(held: Any, delivery: Delivery, now_s: float) -> Result:
    if not _is_integer(held) or held <= delivery.version:
        return TryLater(delivery, "stale, but without a version higher than ours")
    # The number itself is in neither text: a peer can put 8 octets of a key, or an MDN, into it.
    if held > now_s * 1000 + VERSION_AHEAD_MS:
        return Rejected(delivery, "the platform holds a version more than a day ahead of our clock", alarm=True)
    return TryLater(delivery, "the platform holds a later version", held_version=held)


def _reason(answer: Answer, delivery: Delivery) -> str:
    reason = answer.fields.get("reason")
    return (presentable(reason, _keys(delivery)) if isinstance(reason, str) else "") or "no reason given"


def _keys(delivery: Delivery) -> tuple[bytes, ...]:
    return (delivery.key,) if isinstance(delivery, Bind) else ()
