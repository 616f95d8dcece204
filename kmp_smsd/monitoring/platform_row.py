"""The row of a platform on the status page."""

from __future__ import annotations

from kmp_smsd.monitoring.ages import ago, since
from kmp_smsd.monitoring.amounts import count, duration
from kmp_smsd.monitoring.markup import NOTHING, Markup, element, text
from kmp_smsd.monitoring.table import Column, Row, alarming, last_error, name_and_state, rates


def _due(platform: Row, now: int) -> Markup:
    oldest = platform["oldest_due_at"]
    return text(
        count(platform["due"]),
        "+" if platform["due_more"] else None,
        None if oldest is None else element("small", f"oldest {since(oldest, now)}"),
    )


def _rejected(platform: Row, _now: int) -> Markup:
    return text(alarming(platform["rejected"]), "+" if platform["rejected_more"] else None)


def _push(platform: Row, _now: int) -> str:
    pushed = platform["push_s"]
    return duration(pushed["sum"] / pushed["count"]) if pushed["count"] else NOTHING


PLATFORM_COLUMNS = (
    Column("Platform", name_and_state),
    Column("Apps", lambda platform, _: ", ".join(platform["apps"]) or NOTHING, room="wide"),
    Column("Due", _due, room="half"),
    Column("Confirmed", lambda platform, _: text(count(platform["confirmed"]), rates(platform)), room="half"),
    Column("Rejected now", _rejected),
    Column("Rejections", lambda platform, _: count(platform["rejections"])),
    Column("Put off", lambda platform, _: count(platform["postponed"])),
    Column("Failures", lambda platform, _: count(platform["failures"])),
    Column("Last success", lambda platform, now: ago(platform["last_success_at"], now)),
    Column("Mean push", _push),
    Column("Next try", lambda platform, now: ago(platform["next_try_at"], now)),
    Column("Last error", last_error, room="wide"),
)
