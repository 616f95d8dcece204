"""The status page: one HTML file without a script, for a desk and for a phone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from importlib.resources import files

from kmp_smsd.monitoring import tones
from kmp_smsd.monitoring.ages import since
from kmp_smsd.monitoring.amounts import count, duration, instant, octets, rate
from kmp_smsd.monitoring.facts import facts, is_stuck
from kmp_smsd.monitoring.link_row import LINK_COLUMNS
from kmp_smsd.monitoring.markup import NOTHING, Markup, element, text
from kmp_smsd.monitoring.platform_row import PLATFORM_COLUMNS
from kmp_smsd.monitoring.table import Row, table
from kmp_smsd.monitoring.tones import Tone

REFRESH_S = 10
STYLE = files("kmp_smsd.monitoring").joinpath("page.css").read_text(encoding="utf-8")
#: Nothing is fetched, and only this style counts.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'"
)
OLD_DELIVERY_S = 900  # that nobody confirms: as the alarm has it
LATE_LOOP_S = 1.0


def page(snapshot: Row, now: int, not_alive: Sequence[str] = (), not_ready: Sequence[str] = ()) -> str:
    """The page of a role at `now` (Unix milliseconds), with the reasons why it is not alive or not ready."""
    role, state = f"kmp-smsd {snapshot['role']}", snapshot["state"]
    health, tone = (
        ("not alive", Tone.BAD) if not_alive else ("not ready", Tone.BAD) if not_ready else ("ready", Tone.GOOD)
    )
    head = element(
        "head",
        Markup('<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'),
        Markup(f'<meta http-equiv="refresh" content="{REFRESH_S}"><meta name="robots" content="noindex">'),
        element("title", f"{role}: {health}"),
        element("style", Markup(STYLE)),
    )
    body = element(
        "body",
        element(
            "header",
            element("h1", role),
            element("span", health, class_=f"badge {tone}"),
            None if state == "running" else element("span", state, class_=f"badge {Tone.BUSY}"),
            element("small", f"version {snapshot['version']}, up for {since(snapshot['started_at'], now)}"),
        ),
        _reasons("Not alive: the watchdog is about to end this process.", not_alive),
        _reasons("Not ready.", not_ready),
        element("div", *_tiles(snapshot, now), class_="tiles"),
        table("Links", snapshot["links"], LINK_COLUMNS, tones.of_link, now) if "links" in snapshot else None,
        table("Platforms", snapshot["platforms"], PLATFORM_COLUMNS, tones.of_platform, now)
        if "platforms" in snapshot
        else None,
        element("div", *facts(snapshot, now), class_="facts"),
        _legend(),
        _footer(now),
    )
    return "<!DOCTYPE html>\n" + element("html", head, body, lang="en")


def _reasons(title: str, reasons: Sequence[str]) -> Markup | None:
    if not reasons:
        return None
    return element(
        "div", title, element("ul", *(element("li", one) for one in reasons)), class_=f"banner {Tone.BAD}", role="alert"
    )


def _tiles(snapshot: Row, now: int) -> Iterable[Markup]:
    store, lag_s = snapshot["store"], snapshot["reactor_lag_s"]
    if "links" in snapshot:
        links = snapshot["links"]
        bound = sum(link["bound"] for link in links)
        expected = sum(not link["paused"] for link in links)
        tone = None if bound >= expected else Tone.WARNING if bound else Tone.BAD
        yield _tile("links bound", f"{bound} / {len(links)}", tone)
        yield _tile("messages per second", rate(sum(link["rates"]["1m"] for link in links)))
        yield _tile("messages in all", count(sum(link["messages"] for link in links)))
        yield _tile("messages in work", count(sum(link["in_flight"] for link in links)))
    if "platforms" in snapshot:
        platforms = snapshot["platforms"]
        oldest = min((one["oldest_due_at"] for one in platforms if one["oldest_due_at"] is not None), default=None)
        rejected = sum(one["rejected"] for one in platforms)
        yield _tile("deliveries due", count(sum(one["due"] for one in platforms)) + _plus(platforms, "due"))
        late = oldest is not None and now - oldest > OLD_DELIVERY_S * 1000
        yield _tile("oldest is due for", NOTHING if oldest is None else since(oldest, now), Tone.BAD if late else None)
        yield _tile("rejected", count(rejected) + _plus(platforms, "rejected"), Tone.WARNING if rejected else None)
        yield _tile("confirmed per second", rate(sum(one["rates"]["1m"] for one in platforms)))
    yield _tile("event loop late by", duration(lag_s), Tone.BAD if lag_s > LATE_LOOP_S else None)
    yield _tile("store", octets(store["octets"]), Tone.BAD if store["error"] or is_stuck(store) else None)


def _plus(platforms: Sequence[Row], counted: str) -> str:
    """A plus where one of `platforms` has more than was counted."""
    return "+" if any(one[f"{counted}_more"] for one in platforms) else ""


def _tile(title: str, value: str, tone: Tone | None = None) -> Markup:
    return element("div", element("b", value), element("small", title), class_=f"tile {tone or ''}".strip())


def _legend() -> Markup:
    return element(
        "div",
        *(element("span", words, class_=f"badge {tone}") for tone, words in tones.MEANING.items()),
        class_="legend",
    )


def _footer(now: int) -> Markup:
    links = (text(" ", element("a", name, href=name)) for name in ("metrics", "status.json", "healthz", "readyz"))
    return element("footer", f"As of {instant(now)}, new every {REFRESH_S} s. Nothing can be changed here.", *links)
