"""The row of a link on the status page."""

from __future__ import annotations

from collections.abc import Mapping

from kmp_smsd.monitoring.ages import ago
from kmp_smsd.monitoring.amounts import count, duration
from kmp_smsd.monitoring.markup import NOTHING, Markup, element, text
from kmp_smsd.monitoring.table import Column, Row, alarming, last_error, name_and_state, rates
from kmp_smsd.monitoring.tones import CROWDED

STATUSES_MAX = 5  # an SMSC can invent some


def _counts(counts: Mapping[str, int]) -> Markup:
    """Each on a line of its own, the most frequent first, as far as a row has room."""
    ordered = sorted(counts.items(), key=lambda one: -one[1])
    more = element("small", "...") if len(ordered) > STATUSES_MAX else None
    return text(*(element("small", f"{_short(name)} {count(number)}") for name, number in ordered[:STATUSES_MAX]), more)


def _short(status: str) -> str:
    """``RINVPASWD`` of ``ESME_RINVPASWD (0x0E)``."""
    return status.removeprefix("ESME_").partition(" ")[0]


def _messages(link: Row, _now: int) -> Markup:
    refused = {status: number for status, number in link["answers"].items() if _short(status) != "ROK"}
    return text(count(link["messages"]), rates(link), _counts(refused))


def _window(link: Row, _now: int) -> Markup:
    used, size = link["in_flight"], link["in_flight_max"]
    meter = element("meter", value=str(used), max=str(size), high=str(int(CROWDED * size)), optimum="0")
    return text(count(used), element("small", f"of {count(size)}"), meter)


def _binds(link: Row, _now: int) -> Markup:
    return text(
        count(link["binds"]),
        element("small", f"{count(link['reconnects'])} {'reconnect' if link['reconnects'] == 1 else 'reconnects'}"),
        _counts(link["bind_failures"]),
    )


LINK_COLUMNS = (
    Column("Link", name_and_state),
    Column("Peer", lambda link, _: link["peer"] or NOTHING, room="wide"),
    Column(
        "PDU in, out",
        lambda link, now: text(
            element("div", ago(link["last_received_at"], now)), element("div", ago(link["last_sent_at"], now))
        ),
    ),
    Column("Last message", lambda link, now: ago(link["last_message_at"], now)),
    Column("Round trip", lambda link, _: NOTHING if link["enquire_rtt_s"] is None else duration(link["enquire_rtt_s"])),
    Column("In work", _window),
    Column("Throttled", lambda link, _: count(link["throttled"])),
    Column("Bad PDUs", lambda link, _: alarming(link["bad_pdus"])),
    Column("Messages", _messages, room="half"),
    Column("Binds", _binds, room="half"),
    Column("Next try", lambda link, now: ago(link["next_try_at"], now)),
    Column("Last error", last_error, room="wide"),
)
