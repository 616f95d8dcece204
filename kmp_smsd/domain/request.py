"""What intake hands to the store: a request that can be decided, or a message that cannot become one."""

from __future__ import annotations

from msgspec import Struct

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.reply import ReplyTo


class SyncRequest(Struct, frozen=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="sync"):
    """A terminal at `mdn` reports `key_id`. Past this line nobody sees a raw number or a raw payload.

    A Struct, as all that is made for each message: a frozen dataclass takes ten times as long. Its fields lie in the
    inbox in this order, so that a new one comes last, and has a default.
    """

    mdn: str
    key_id: str
    received_at: int  # Unix milliseconds of its first reception
    link: str
    app_id: str | None = None
    proof: Proof | None = None
    reply_to: ReplyTo | None = None  # where its link confirms to terminals
    approved_hold: int | None = None  # that hold's message, come again; counts while its approval stands
    waited: bool = False  # for what was missing, and comes again
    submission: int | None = None  # its number where a gateway handed it in; `link` is the gateway's name then


class Unfit(Struct, frozen=True, kw_only=True, gc=False, array_like=True, forbid_unknown_fields=True, tag="unfit"):
    """A message that ended before it could become a request (rows 1 to 4 of docs/rules.rst).

    `mdn` is set only where the sender is a legal MDN; else `sender` is its class. The order matters as above.
    """

    outcome: Outcome
    mdn: str | None = None
    sender: str = ""
    received_at: int  # Unix milliseconds
    link: str
    why: str = ""


def sender_class(address: str) -> str:
    """Tell a number by its first five digits and its length, anything else by its length alone.

    Enough to notice a new number range, not a person. Names, which a forger may choose freely, make few classes.
    """
    number = address.removeprefix("+")
    if number.isascii() and number.isdigit():
        return f"{number[:5]}/{len(number)}"
    return f"alnum/{len(address)}"
