"""A role's status as people read it: pure text from what its control socket gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kmp_smsd.cli.output import due, local_time, rejected
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import printable

Snapshot = Mapping[str, Any]
ERROR_CHARACTERS = 60


def text(snapshot: Snapshot, now: int) -> str:
    """Everything about one role, at `now` in Unix milliseconds."""
    return "".join(f"{printable(line)}\n" for line in _lines(snapshot, now))


def _lines(snapshot: Snapshot, now: int) -> Iterator[str]:
    configuration, store = snapshot["configuration"], snapshot["store"]
    state, since = snapshot["state"], ago(snapshot["started_at"], now)
    for_how_long = f"running for {since}" if state == "running" else f"{state}, started {since} ago"
    yield f"{snapshot['role']}: {for_how_long} (kmp-smsd {snapshot['version']}, PID {snapshot['pid']})"
    for reason in snapshot.get("not_ready", ()):
        yield f"  NOT READY: {reason}"
    for reason in snapshot.get("degraded", ()):
        yield f"  degraded: {reason}"
    yield f"  configuration  {configuration['path']}, loaded {local_time(configuration['loaded_at'])}"
    if configuration["last_reload_ok"] is False:
        yield f"    reload refused {local_time(configuration['last_reload_at'])}, the old one runs on:"
        yield from (f"      {line}" for line in configuration["last_reload_error"].split("\n"))
    if configuration["needs_restart"]:
        yield f"    needs restart: {', '.join(configuration['needs_restart'])}"
    differences = [one for one in configuration["differences"] if one not in configuration["needs_restart"]]
    if differences and "\n".join(differences) != configuration["last_reload_error"]:
        yield "    the files on disk differ, see kmp-smsd reload:"
        yield from (f"      {one}" for one in differences)
    yield (
        f"  store          {store['path']}, schema {store['schema']}, {octets(store['octets'])}"
        f" + {octets(store['log_octets'])} log, journal at {store['journal_head']:,}"
    )
    if store["error"] is not None:
        yield f"    unavailable: {store['error']}"
    if store["last_write_at"] is not None:
        yield f"    last write {ago(store['last_write_at'], now)} ago, took {store['last_write_s'] * 1000:.1f} ms"
    if store["stuck_s"] >= 1:
        yield f"    a thread of it has been busy for {store['stuck_s']:.0f} s"
    for subsystem, level in snapshot["log_levels"].items():
        yield f"  log level      {subsystem} at {level}, until the next reload"
    if snapshot.get("outcomes"):
        outcomes = sorted(snapshot["outcomes"].items(), key=lambda one: -one[1])
        yield f"  outcomes       {', '.join(f'{name} {count:,}' for name, count in outcomes)}"
    if snapshot.get("unsettled"):
        yield f"  unsettled      {counted(snapshot['unsettled'], 'message')}, answered and in the inbox"
    if snapshot.get("links"):
        yield ""
        yield from _table([_link(row, now) for row in snapshot["links"]])
    if snapshot.get("platforms"):
        yield ""
        yield from _table([_platform(row, now) for row in snapshot["platforms"]])


def _state(row: Snapshot, now: int) -> str:
    return f"{'paused, ' if row['paused'] and row['word'] != 'paused' else ''}{row['word']} {ago(row['since'], now)}"


def _error(row: Snapshot, now: int) -> str:
    if not row["last_error"]:
        return "-"
    error = row["last_error"]
    shown = error if len(error) <= ERROR_CHARACTERS else error[: ERROR_CHARACTERS - 3] + "..."
    return f"{shown} ({ago(row['last_error_at'], now)} ago)"


def _next_try(row: Snapshot, now: int) -> str:
    at = row.get("next_try_at")  # a role that runs since before an upgrade does not tell a link's
    return "-" if at is None else ahead(at, now)


def _rates(row: Snapshot) -> str:
    return " ".join(f"{rate:.3g}" for rate in row["rates"].values())


def _link(row: Snapshot, now: int) -> dict[str, str]:
    rtt_s = row["enquire_rtt_s"]
    return {
        "link": row["name"],
        "state": _state(row, now),
        "peer": row["peer"] or "-",
        "in": ago(row["last_received_at"], now),
        "out": ago(row["last_sent_at"], now),
        "message": ago(row["last_message_at"], now),
        "enquire": "-" if rtt_s is None else f"{rtt_s * 1000:.1f} ms",
        "messages": f"{row['messages']:,}",
        "a second 1m 5m 15m": _rates(row),
        "in flight": f"{row['in_flight']:,}/{row['in_flight_max']:,}",
        "throttled": f"{row['throttled']:,}",
        "reconnects": str(row["reconnects"]),
        "next try": _next_try(row, now),
        "last error": _error(row, now),
    }


def _platform(row: Snapshot, now: int) -> dict[str, str]:
    push = row["push_s"]
    return {
        "platform": row["name"],
        "state": _state(row, now),
        "due": due(row),
        "oldest": ago(row["oldest_due_at"], now),
        "rejected": rejected(row),
        "confirmed": f"{row['confirmed']:,}",
        "a second 1m 5m 15m": _rates(row),
        "push": f"{push['sum'] / push['count'] * 1000:.0f} ms" if push["count"] else "-",
        "last success": ago(row["last_success_at"], now),
        "next try": _next_try(row, now),
        "last error": _error(row, now),
    }


def _table(rows: Sequence[Mapping[str, str]]) -> Iterator[str]:
    from tabulate import tabulate

    cells = [[printable(cell) for cell in row.values()] for row in rows]
    yield from tabulate(cells, list(rows[0]), tablefmt="plain", disable_numparse=True).splitlines()


def ago(at: int | None, now: int) -> str:
    """How long that is past: ``3 s``, ``12 min``, ``5 h``, ``9 d``; both in Unix milliseconds."""
    if at is None:
        return "-"
    seconds = max(0, now - at) // 1000
    for unit, size, most in (("s", 1, 120), ("min", 60, 120), ("h", 3600, 48)):
        if seconds < size * most:
            return f"{seconds // size} {unit}"
    return f"{seconds // 86_400} d"


def ahead(at: int, now: int) -> str:
    """When that is to come."""
    return "now" if at <= now else f"in {ago(now, at)}"


def octets(count: int) -> str:
    """``12.3 MiB``."""
    size, unit = float(count), "octets"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "octets" else f"{size:.1f} {unit}"
