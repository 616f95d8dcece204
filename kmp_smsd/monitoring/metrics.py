"""The metrics of a role: one table, read off the status snapshot.

Names have base units and the prefix; a counter ends in ``_total`` and begins anew with the role. Labels are names
from the configuration, or words of a fixed set: never an MDN, a key ID, or what a peer made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, SummaryMetricFamily

from kmp_smsd.domain.outcome import Outcome

PREFIX = "kmp_smsd_"
STATES = ("running", "draining", "stopping")

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figure:
    """A metric, and what of a row of the snapshot it shows; None: no sample.

    With `by`, the name of a further label, `of` gives a value for each of that label's values.
    """

    kind: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    about: str
    of: Callable[[Row], Any]
    by: str = ""

    def family(self, rows: Iterable[tuple[tuple[str, ...], Row]], labels: tuple[str, ...] = ()) -> Metric:
        """The samples of `rows`, each given with the values of `labels`."""
        family = self.kind(PREFIX + self.name, self.about, labels=(*labels, *([self.by] if self.by else [])))
        for values, row in rows:
            found = self.of(row)
            if self.by:
                for value, number in found.items():
                    family.add_metric((*values, value), number)
            elif found is not None:
                family.add_metric(values, found)
        return family


def _seconds(name: str) -> Callable[[Row], float | None]:
    """A time of the row, in Unix seconds."""
    return lambda row: None if row[name] is None else row[name] / 1000


def _field(name: str) -> Callable[[Row], float | None]:
    return lambda row: row[name]


def _once_read(name: str) -> Callable[[Row], float | None]:
    """What is not known before the store was read for the first time."""
    return lambda row: None if row["read_at"] is None else row[name]


def _flag(name: str) -> Callable[[Row], float]:
    return lambda row: float(row[name])


def _state(row: Row) -> dict[str, float]:
    return {state: float(row["state"] == state) for state in STATES}


def _outcomes(row: Row) -> dict[str, float]:
    """All of them from the first scrape on, so that `increase` sees the first of a kind."""
    return {outcome.value: row["outcomes"].get(outcome.value, 0) for outcome in Outcome}


def _by_status(name: str) -> Callable[[Row], dict[str, float]]:
    """Counts by the name of a command_status. Numbers that SMPP has no name for are many, and the SMSC chooses them."""

    def counts(row: Row) -> dict[str, float]:
        found: dict[str, float] = {}
        for status, count in row[name].items():
            known = "other" if status.startswith("0x") else status.partition(" ")[0]
            found[known] = found.get(known, 0) + count
        return found

    return counts


_GAUGE, _COUNTER = GaugeMetricFamily, CounterMetricFamily

ROLE = (
    Figure(_GAUGE, "state", "1 for the state that the role is in: running, draining or stopping.", _state, "state"),
    Figure(
        _GAUGE,
        "reactor_lag_seconds",
        "How late the event loop was at the latest of its last ten ticks.",
        _field("reactor_lag_s"),
    ),
)
CONFIG = (
    Figure(
        _GAUGE,
        "config_last_reload_successful",
        "0 where the last reload was refused: the configuration before it runs on.",
        lambda row: float(row["last_reload_ok"] is not False),
    ),
    Figure(
        _GAUGE,
        "config_last_reload_success_timestamp_seconds",
        "When the configuration that runs was loaded, at the start or by a reload.",
        _seconds("loaded_at"),
    ),
    Figure(_GAUGE, "config_differs", "1 where the files on disk are not what runs.", _flag("differs")),
    Figure(
        _GAUGE,
        "config_needs_restart",
        "Changed options that the last reload left for a restart.",
        lambda row: len(row["needs_restart"]),
    ),
)
STORE = (
    Figure(
        _GAUGE,
        "store_bytes",
        "Size of the database file, and of its write-ahead log.",
        lambda row: {"database": row["octets"], "log": row["log_octets"]} if row["read_at"] is not None else {},
        "file",
    ),
    Figure(_GAUGE, "store_schema_version", "Version of the database schema.", _once_read("schema")),
    Figure(_GAUGE, "store_journal_head", "Number of the newest journal entry.", _once_read("journal_head")),
    Figure(
        _GAUGE,
        "store_last_write_timestamp_seconds",
        "When the last write of intake to the store was durable; dispatch does not tell of its own.",
        _seconds("last_write_at"),
    ),
    Figure(
        _GAUGE,
        "store_write_seconds",
        "How long the last write of intake to the store took.",
        lambda row: None if row["last_write_at"] is None else row["last_write_s"],
    ),
    Figure(
        _GAUGE,
        "store_available",
        "0 where the store last answered with an error.",
        lambda row: float(row["error"] is None),
    ),
    Figure(
        _GAUGE,
        "store_stuck_seconds",
        "For how long a thread of the store has been at its present job; 0 while it rests.",
        _field("stuck_s"),
    ),
)
INTAKE = (
    Figure(_COUNTER, "key_sync_total", "Messages by what became of them (docs/rules.rst).", _outcomes, "outcome"),
    Figure(_GAUGE, "unsettled_messages", "Messages that were answered and are not decided yet.", _field("unsettled")),
)
LINKS = (
    Figure(_GAUGE, "smpp_link_up", "1 where the link is bound.", _flag("bound")),
    Figure(_GAUGE, "smpp_link_paused", "1 where a person has paused the link.", _flag("paused")),
    Figure(
        _GAUGE, "smpp_link_state", "1 for the state of the link, in words.", lambda row: {row["word"]: 1.0}, "state"
    ),
    Figure(_GAUGE, "smpp_link_state_since_timestamp_seconds", "When the link came into its state.", _seconds("since")),
    Figure(
        _GAUGE,
        "smpp_last_received_timestamp_seconds",
        "When the SMSC last sent a PDU of any kind.",
        _seconds("last_received_at"),
    ),
    Figure(_GAUGE, "smpp_last_sent_timestamp_seconds", "When we last sent a PDU.", _seconds("last_sent_at")),
    Figure(_GAUGE, "sms_last_received_timestamp_seconds", "When the last message came.", _seconds("last_message_at")),
    Figure(
        _GAUGE,
        "smpp_enquire_link_rtt_seconds",
        "Round trip of the last enquire_link that the SMSC answered.",
        _field("enquire_rtt_s"),
    ),
    Figure(_COUNTER, "smpp_binds_total", "Binds that the SMSC accepted.", _field("binds")),
    Figure(
        _COUNTER,
        "smpp_bind_failures_total",
        "Binds that the SMSC refused, by command_status, or left unanswered.",
        _by_status("bind_failures"),
        "status",
    ),
    Figure(_COUNTER, "smpp_reconnects_total", "Connections after the first.", _field("reconnects")),
    Figure(_COUNTER, "sms_received_total", "Messages that the SMSC handed to us.", _field("messages")),
    Figure(
        _COUNTER, "smpp_answers_total", "Our answers to messages, by command_status.", _by_status("answers"), "status"
    ),
    Figure(_COUNTER, "smpp_throttled_total", "Messages over a limit, left with the SMSC.", _field("throttled")),
    Figure(_COUNTER, "smpp_bad_pdus_total", "PDUs that could not be read.", _field("bad_pdus")),
    Figure(_GAUGE, "smpp_window_used", "Messages in work, not answered yet.", _field("in_flight")),
    Figure(_GAUGE, "smpp_window_size", "Messages in work at most (in_flight_max).", _field("in_flight_max")),
    Figure(_GAUGE, "smpp_last_error_timestamp_seconds", "When the link last had an error.", _seconds("last_error_at")),
)
PLATFORMS = (
    Figure(_GAUGE, "push_paused", "1 where a person has paused the platform.", _flag("paused")),
    Figure(_GAUGE, "push_state", "1 for the state of the platform, in words.", lambda row: {row["word"]: 1.0}, "state"),
    Figure(_GAUGE, "push_state_since_timestamp_seconds", "When the platform came into its state.", _seconds("since")),
    Figure(
        _GAUGE, "push_pending", "Deliveries that the platform has not confirmed; counted up to 100000.", _field("due")
    ),
    Figure(
        _GAUGE,
        "push_oldest_pending_timestamp_seconds",
        "Since when the oldest of them waits; no sample where none does.",
        _seconds("oldest_due_at"),
    ),
    Figure(
        _GAUGE,
        "push_rejected",
        "Deliveries that the platform rejected and nobody armed again; counted up to 100000.",
        _field("rejected"),
    ),
    Figure(
        _COUNTER,
        "push_attempts_total",
        "Answers by result: confirmed, rejected, postponed; failed: tries that broke off, of any number of deliveries.",
        lambda row: {
            "confirmed": row["confirmed"],
            "rejected": row["rejections"],
            "postponed": row["postponed"],
            "failed": row["failures"],
        },
        "result",
    ),
    Figure(
        _GAUGE,
        "push_last_success_timestamp_seconds",
        "When the platform last confirmed a delivery.",
        _seconds("last_success_at"),
    ),
    Figure(_GAUGE, "push_last_error_timestamp_seconds", "When a delivery last failed.", _seconds("last_error_at")),
    Figure(
        _GAUGE,
        "push_next_try_timestamp_seconds",
        "When the platform is tried again; no sample where it does not wait.",
        _seconds("next_try_at"),
    ),
    Figure(
        _GAUGE,
        "push_certificate_left_seconds",
        "For how long our certificate at the platform is valid; no sample where it knows us by none.",
        _field("certificate_left_s"),
    ),
)


def metrics(snapshot: Row) -> Iterator[Metric]:
    """The metrics of a role, in a fixed order."""
    build = InfoMetricFamily(PREFIX + "build", "Role and version; always 1.", labels=())
    build.add_metric((), {"role": snapshot["role"], "version": snapshot["version"]})
    yield build
    for figures, row in ((ROLE, snapshot), (CONFIG, snapshot["configuration"]), (STORE, snapshot["store"])):
        yield from (figure.family([((), row)]) for figure in figures)
    if "links" in snapshot:
        yield from (figure.family([((), snapshot)]) for figure in INTAKE)
        links = [((link["name"],), link) for link in snapshot["links"]]
        yield from (figure.family(links, ("link",)) for figure in LINKS)
    if "platforms" in snapshot:
        platforms = [((platform["name"],), platform) for platform in snapshot["platforms"]]
        yield from (figure.family(platforms, ("platform",)) for figure in PLATFORMS)
        yield _push_duration(platforms)


def _push_duration(platforms: Iterable[tuple[tuple[str, ...], Row]]) -> Metric:
    family = SummaryMetricFamily(
        PREFIX + "push_duration_seconds", "From a delivery's sending to the platform's answer.", labels=("platform",)
    )
    for name, platform in platforms:
        family.add_metric(name, count_value=platform["push_s"]["count"], sum_value=platform["push_s"]["sum"])
    return family
