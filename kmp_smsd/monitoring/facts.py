"""What the status page tells below its tables, in cards."""

from __future__ import annotations

from collections.abc import Iterable

from kmp_smsd.monitoring.ages import ago
from kmp_smsd.monitoring.amounts import count, duration, octets
from kmp_smsd.monitoring.markup import NOTHING, Child, Markup, element, text
from kmp_smsd.monitoring.table import Row

STUCK_S = 10.0


def facts(snapshot: Row, now: int) -> Iterable[Markup]:
    """Outcomes, configuration, store and process."""
    if snapshot.get("outcomes") or snapshot.get("unsettled"):
        ordered = sorted(snapshot["outcomes"].items(), key=lambda one: -one[1])
        told = [(name, count(number)) for name, number in ordered if number]
        yield _card("What became of messages", *told, ("not decided yet", count(snapshot["unsettled"])))
    configuration = snapshot["configuration"]
    yield _card(
        "Configuration",
        ("file", configuration["path"]),
        ("loaded", ago(configuration["loaded_at"], now)),
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
        ("started", ago(snapshot["started_at"], now)),
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
    return text(ago(store["last_write_at"], now), f", took {duration(store['last_write_s'])}")


def _available(store: Row) -> Child:
    if store["error"] is not None:
        return _warned(store["error"])
    return _warned(f"has not answered for {duration(store['stuck_s'])}") if is_stuck(store) else "yes"


def is_stuck(store: Row) -> bool:
    """Whether the store has been at one job for so long that people should know."""
    return bool(store["stuck_s"] > STUCK_S)


def _reload(configuration: Row, now: int) -> Child:
    if configuration["last_reload_at"] is None:
        return "none since the start"
    when = ago(configuration["last_reload_at"], now)
    if configuration["last_reload_ok"]:
        return when
    return text(_warned("refused "), when, element("div", configuration["last_reload_error"]))


def _warned(words: str) -> Markup:
    return element("span", words, class_="alarming")


def _card(title: str, *pairs: tuple[str, Child]) -> Markup:
    rows = (text(element("dt", name), element("dd", value)) for name, value in pairs)
    return element("section", element("h2", title), element("div", element("dl", *rows), class_="frame"))
