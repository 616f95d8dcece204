"""The status page: one HTML file without a script, for a desk and for a phone."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from kmp_smsd.monitoring import tones
from kmp_smsd.monitoring.amounts import count, duration, instant, octets, rate
from kmp_smsd.monitoring.markup import Child, Markup, element, text
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
STUCK_S = 10.0
NOTHING = "-"
COUNTS_MAX = 5

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Column:
    title: str
    cell: Callable[[Row, int], Child]
    room: str = ""  # on a phone: a third of a line, "half" of one, or "wide", a whole one


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
            element("small", f"version {snapshot['version']}, up for {_since(snapshot['started_at'], now)}"),
        ),
        _reasons("Not alive: the watchdog is about to end this process.", not_alive),
        _reasons("Not ready.", not_ready),
        element("div", *_tiles(snapshot, now), class_="tiles"),
        _table("Links", snapshot["links"], _LINK, tones.of_link, now) if "links" in snapshot else None,
        _table("Platforms", snapshot["platforms"], _PLATFORM, tones.of_platform, now)
        if "platforms" in snapshot
        else None,
        element("div", *_facts(snapshot, now), class_="facts"),
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
        more = "+" if any(one["due_more"] for one in platforms) else ""
        yield _tile("deliveries due", count(sum(one["due"] for one in platforms)) + more)
        late = oldest is not None and now - oldest > OLD_DELIVERY_S * 1000
        yield _tile("oldest is due for", NOTHING if oldest is None else _since(oldest, now), Tone.BAD if late else None)
        yield _tile("rejected", count(rejected), Tone.WARNING if rejected else None)
        yield _tile("confirmed per second", rate(sum(one["rates"]["1m"] for one in platforms)))
    yield _tile("event loop late by", duration(lag_s), Tone.BAD if lag_s > LATE_LOOP_S else None)
    yield _tile("store", octets(store["octets"]), Tone.BAD if store["error"] or _is_stuck(store) else None)


def _tile(title: str, value: str, tone: Tone | None = None) -> Markup:
    return element("div", element("b", value), element("small", title), class_=f"tile {tone or ''}".strip())


def _table(
    title: str, rows: Sequence[Row], columns: Sequence[_Column], tone: Callable[[Row], Tone], now: int
) -> Markup:
    head = element("thead", element("tr", *(element("th", column.title, scope="col") for column in columns)))
    body = element("tbody", *(_row(row, columns, tone(row), now) for row in rows))
    nothing = element("p", "none is configured") if not rows else None
    return text(
        element("h2", title, " ", element("small", len(rows))),
        nothing or element("div", element("table", head, body), class_="frame rows"),
    )


def _row(row: Row, columns: Sequence[_Column], tone: Tone, now: int) -> Markup:
    first, *others = columns
    cells = (_cell(column, column.cell(row, now)) for column in others)
    return element("tr", element("td", first.cell(row, now)), *cells, class_=tone)


def _cell(column: _Column, content: Child) -> Markup:
    classes = " ".join(filter(None, (column.room, "empty" if content == NOTHING else "")))
    return element("td", content, data_label=column.title, class_=classes or None)


def _name(row: Row, now: int) -> Markup:
    since = element("small", f"for {_since(row['since'], now)}")
    return text(element("b", row["name"]), element("span", row["word"], class_="state"), since)


def _ago(at: int | None, now: int) -> Markup:
    if at is None:
        return text(NOTHING)
    age = now - at
    words = f"in {duration(-age / 1000)}" if age < 0 else f"{_since(at, now)} ago"
    return element("time", words, datetime=instant(at), title=instant(at))


def _since(at: int, now: int) -> str:
    return duration(max(0, now - at) // 1000)


def _rates(row: Row) -> Markup:
    return element("small", " · ".join(rate(row["rates"][span]) for span in ("1m", "5m", "15m")), " /s")


def _error(row: Row, now: int) -> Child:
    if not row["last_error"]:
        return NOTHING
    return text(row["last_error"], element("small", _ago(row["last_error_at"], now)))


def _alarming(number: int) -> Child:
    return element("span", count(number), class_="alarming") if number else count(number)


def _counts(counts: Mapping[str, int]) -> Markup | None:
    """Each on a line of its own, the most frequent first, as far as a row has room: an SMSC can invent some."""
    ordered = sorted(counts.items(), key=lambda one: -one[1])
    more = element("small", "...") if len(ordered) > COUNTS_MAX else None
    return text(*(element("small", f"{_short(name)} {count(number)}") for name, number in ordered[:COUNTS_MAX]), more)


def _short(status: str) -> str:
    """``RINVPASWD`` of ``ESME_RINVPASWD (0x0E)``."""
    return status.removeprefix("ESME_").partition(" ")[0]


def _messages(link: Row, _now: int) -> Markup:
    refused = {status: number for status, number in link["answers"].items() if _short(status) != "ROK"}
    return text(count(link["messages"]), _rates(link), _counts(refused))


def _window(link: Row, _now: int) -> Markup:
    used, size = link["in_flight"], link["in_flight_max"]
    meter = element("meter", value=str(used), max=str(size), high=str(int(tones.CROWDED * size)), optimum="0")
    return text(count(used), element("small", f"of {count(size)}"), meter)


def _binds(link: Row, _now: int) -> Markup:
    return text(
        count(link["binds"]),
        element("small", f"{count(link['reconnects'])} reconnects"),
        _counts(link["bind_failures"]),
    )


_LINK = (
    _Column("Link", _name),
    _Column("Peer", lambda link, _: link["peer"] or NOTHING, room="wide"),
    _Column(
        "PDU in, out",
        lambda link, now: text(
            element("div", _ago(link["last_received_at"], now)), element("div", _ago(link["last_sent_at"], now))
        ),
    ),
    _Column("Last message", lambda link, now: _ago(link["last_message_at"], now)),
    _Column(
        "Round trip", lambda link, _: NOTHING if link["enquire_rtt_s"] is None else duration(link["enquire_rtt_s"])
    ),
    _Column("In work", _window),
    _Column("Throttled", lambda link, _: count(link["throttled"])),
    _Column("Bad PDUs", lambda link, _: _alarming(link["bad_pdus"])),
    _Column("Messages", _messages, room="half"),
    _Column("Binds", _binds, room="half"),
    _Column("Last error", _error, room="wide"),
)


def _due(platform: Row, now: int) -> Markup:
    oldest = platform["oldest_due_at"]
    return text(
        count(platform["due"]),
        "+" if platform["due_more"] else None,
        None if oldest is None else element("small", f"oldest {_since(oldest, now)}"),
    )


def _push(platform: Row, _now: int) -> str:
    pushed = platform["push_s"]
    return duration(pushed["sum"] / pushed["count"]) if pushed["count"] else NOTHING


_PLATFORM = (
    _Column("Platform", _name),
    _Column("Apps", lambda platform, _: ", ".join(platform["apps"]) or NOTHING, room="wide"),
    _Column("Due", _due, room="half"),
    _Column("Confirmed", lambda platform, _: text(count(platform["confirmed"]), _rates(platform)), room="half"),
    _Column("Rejected now", lambda platform, _: _alarming(platform["rejected"])),
    _Column("Rejections", lambda platform, _: count(platform["rejections"])),
    _Column("Failures", lambda platform, _: count(platform["failures"])),
    _Column("Last success", lambda platform, now: _ago(platform["last_success_at"], now)),
    _Column("Mean push", _push),
    _Column("Next try", lambda platform, now: _ago(platform["next_try_at"], now)),
    _Column("Last error", _error, room="wide"),
)


def _facts(snapshot: Row, now: int) -> Iterable[Markup]:
    if snapshot.get("outcomes"):
        ordered = sorted(snapshot["outcomes"].items(), key=lambda one: -one[1])
        yield _card("What became of messages", *((name, count(number)) for name, number in ordered if number))
    configuration = snapshot["configuration"]
    yield _card(
        "Configuration",
        ("file", configuration["path"]),
        ("loaded", _ago(configuration["loaded_at"], now)),
        ("on disk", _on_disk(configuration)),
        ("last reload", _reload(configuration, now)),
        ("waits for a restart", ", ".join(configuration["needs_restart"]) or "nothing"),
    )
    store = snapshot["store"]
    yield _card(
        "Store",
        ("file", store["path"]),
        ("size", f"{octets(store['octets'])}, log {octets(store['log_octets'])}"),
        ("schema", str(store["schema"])),
        ("journal head", count(store["journal_head"])),
        ("last write", _last_write(store, now)),
        ("available", _available(store)),
    )
    levels = (f"{subsystem} {level}" for subsystem, level in snapshot["log_levels"].items())
    yield _card(
        "Process",
        ("number", str(snapshot["pid"])),
        ("version", snapshot["version"]),
        ("started", _ago(snapshot["started_at"], now)),
        ("log levels", ", ".join(levels) or "as configured"),
    )


def _on_disk(configuration: Row) -> Child:
    if not configuration["differs"]:
        return "what runs"
    differences = (element("div", difference) for difference in configuration["differences"])
    return text(_warned("differs from what runs"), *differences)


def _last_write(store: Row, now: int) -> Child:
    if store["last_write_at"] is None:
        return NOTHING
    return text(_ago(store["last_write_at"], now), f", took {duration(store['last_write_s'])}")


def _available(store: Row) -> Child:
    if store["error"] is not None:
        return _warned(store["error"])
    return _warned(f"has not answered for {duration(store['stuck_s'])}") if _is_stuck(store) else "yes"


def _is_stuck(store: Row) -> bool:
    return bool(store["stuck_s"] > STUCK_S)


def _reload(configuration: Row, now: int) -> Child:
    if configuration["last_reload_at"] is None:
        return "none since the start"
    when = _ago(configuration["last_reload_at"], now)
    if configuration["last_reload_ok"]:
        return when
    return text(_warned("refused "), when, element("div", configuration["last_reload_error"]))


def _warned(words: str) -> Markup:
    return element("span", words, class_="alarming")


def _card(title: str, *facts: tuple[str, Child]) -> Markup:
    rows = (text(element("dt", name), element("dd", value)) for name, value in facts)
    return element("section", element("h2", title), element("div", element("dl", *rows), class_="frame"))


def _legend() -> Markup:
    return element(
        "div",
        *(element("span", words, class_=f"badge {tone}") for tone, words in tones.MEANING.items()),
        class_="legend",
    )


def _footer(now: int) -> Markup:
    links = (text(" ", element("a", name, href=name)) for name in ("metrics", "status.json", "healthz", "readyz"))
    return element("footer", f"As of {instant(now)}, new every {REFRESH_S} s. Nothing can be changed here.", *links)
