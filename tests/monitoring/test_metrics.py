"""What Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.monitoring.exposition import OwnProcess, expose
from tests.monitoring.promtool import promtool
from tests.monitoring.snapshots import NOW, dispatch, intake

OPENMETRICS = "application/openmetrics-text; version=1.0.0"
LABELS = {"role", "version", "state", "file", "outcome", "link", "status", "platform", "result"}

both_roles = pytest.mark.parametrize("role", [intake, dispatch], ids=["intake", "dispatch"])
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(snapshot: dict[str, Any], accept: str = "") -> Samples:
    """Every sample of ours by name and labels."""
    content_type, body = expose(snapshot, accept)
    parse: Any = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse(body.decode())
        for sample in family.samples
        if sample.name.startswith("kmp_smsd_")
    }


def one(snapshot: dict[str, Any], name: str, **labels: str) -> float | None:
    return samples(snapshot).get((f"kmp_smsd_{name}", tuple(sorted(labels.items()))))


@both_roles
def test_promtool_finds_nothing_to_mend(role: Callable[[], dict[str, Any]]) -> None:
    assert promtool("check", "metrics", stdin=expose(role(), "")[1]) == (0, "")


def test_promtool_would_find_a_counter_with_a_gauge_s_name() -> None:
    body = expose(intake(), "")[1].replace(b"sms_received_total", b"sms_received")
    status, said = promtool("check", "metrics", stdin=body)
    assert status == 3
    assert 'kmp_smsd_sms_received counter metrics should have "_total" suffix' in said


@both_roles
def test_both_formats_say_the_same(role: Callable[[], dict[str, Any]]) -> None:
    assert samples(role(), OPENMETRICS) == samples(role())
    assert expose(role(), OPENMETRICS)[1].endswith(b"# EOF\n")


@both_roles
def test_labels_are_few_and_bounded(role: Callable[[], dict[str, Any]]) -> None:
    found = samples(role())
    assert {label for _, labels in found for label, _ in labels} <= LABELS
    assert not [name for name, _ in found if name.endswith("_created")]


def test_what_an_smsc_invents_makes_no_label() -> None:
    """0x00000402 and 0x00000403 in the snapshot: there are four thousand million more."""
    found = {labels: value for (name, labels), value in samples(intake()).items() if "bind_failures" in name}
    assert found[(("link", "north-b"), ("status", "other"))] == 2
    assert {dict(labels)["status"] for labels in found} == {
        "ESME_RALYBND", "ESME_RBINDFAIL", "ESME_RINVPASWD", "unanswered", "other"
    }  # fmt: skip


def test_free_text_of_peers_is_in_no_metric() -> None:
    body = expose(dispatch(), "")[1]
    assert b"refused;" not in body
    assert b"8613912345678" not in body


def test_what_never_happened_has_no_sample() -> None:
    assert one(intake(), "smpp_link_up", link="south") == 0
    assert one(intake(), "sms_last_received_timestamp_seconds", link="south") is None
    assert one(intake(), "sms_last_received_timestamp_seconds", link="north-a") == NOW / 1000 - 2
    assert one(dispatch(), "push_oldest_pending_timestamp_seconds", platform="payment") is None
    assert one(dispatch(), "push_oldest_pending_timestamp_seconds", platform="parking") == NOW / 1000 - 3600


def test_a_store_that_was_not_read_yet_has_no_size() -> None:
    store = {**intake()["store"], "read_at": None, "octets": 0, "log_octets": 0, "last_write_at": None}
    found = {name for name, _ in samples(intake(store=store))}
    assert not found & {
        "kmp_smsd_store_bytes", "kmp_smsd_store_journal_head", "kmp_smsd_store_schema_version",
        "kmp_smsd_store_write_seconds", "kmp_smsd_store_last_write_timestamp_seconds",
    }  # fmt: skip
    assert one(intake(), "store_bytes", file="log") == 4_194_304
    assert one(intake(), "store_write_seconds") == 0.0031


@pytest.mark.parametrize(("error", "available"), [(None, 1), ("disk I/O error", 0)])
def test_a_store_that_fails_is_seen(error: str | None, available: float) -> None:
    assert one(intake(store={**intake()["store"], "error": error}), "store_available") == available


def test_every_outcome_is_there_from_the_first_scrape_on() -> None:
    fresh = samples(intake(outcomes={"bound": 1}))
    counted = {dict(labels)["outcome"]: value for (name, labels), value in fresh.items() if "key_sync" in name}
    assert counted == {outcome.value: float(outcome is Outcome.BOUND) for outcome in Outcome}


def test_a_link_is_in_exactly_one_state() -> None:
    assert one(intake(), "smpp_link_state", link="north-b", state="bound as receiver") == 1
    states = [labels for name, labels in samples(intake()) if name == "kmp_smsd_smpp_link_state"]
    assert len(states) == len(intake()["links"])


def test_attempts_are_counted_by_their_result() -> None:
    results = {result: one(dispatch(), "push_attempts_total", platform="vending", result=result)
               for result in ("confirmed", "rejected", "postponed", "failed")}  # fmt: skip
    assert results == {"confirmed": 20_417, "rejected": 21, "postponed": 5, "failed": 3}
    assert one(dispatch(), "push_duration_seconds_sum", platform="vending") == 812.4
    assert one(dispatch(), "push_duration_seconds_count", platform="vending") == 20_417


@pytest.mark.parametrize(("ok", "successful"), [(None, 1), (True, 1), (False, 0)])
def test_a_refused_reload_is_seen_and_a_start_counts_as_one_that_succeeded(ok: bool | None, successful: float) -> None:
    configuration = {
        **intake()["configuration"],
        "last_reload_ok": ok,
        "last_reload_at": NOW,
        "needs_restart": ["a", "b"],
    }
    snapshot = intake(configuration=configuration)
    assert one(snapshot, "config_last_reload_successful") == successful
    assert one(snapshot, "config_last_reload_success_timestamp_seconds") == configuration["loaded_at"] / 1000
    assert one(snapshot, "config_needs_restart") == 2


def test_name_of_a_link_cannot_break_out_of_its_label() -> None:
    link = {**intake()["links"][0], "name": 'a"} 1\nkmp_smsd_x{b="\\'}
    assert one(intake(links=[link]), "smpp_link_up", link=link["name"]) == 1
    assert ("kmp_smsd_x", (("b", "\\"),)) not in samples(intake(links=[link]))


def test_process_metrics_survive_a_proc_that_shows_processes_only(tmp_path: Path) -> None:
    """ProcSubset=pid hides /proc/stat, and the library's own collector then tells nothing."""
    (tmp_path / "self").symlink_to("/proc/self")
    hidden = {family.name for family in OwnProcess(proc=str(tmp_path), registry=None).collect()}
    assert "process_resident_memory" in {name.removesuffix("_bytes") for name in hidden}
    assert "process_start_time_seconds" in hidden
    with pytest.raises(FileNotFoundError):
        (tmp_path / "stat").read_bytes()


def test_start_of_the_process_does_not_tremble() -> None:
    def started() -> list[bytes]:
        return [line for line in expose(intake(), "")[1].splitlines() if line.startswith(b"process_start_time")]

    assert len(started()) == 1
    assert len({*started(), *started(), *started()}) == 1
    assert time.time() - 86_400 < float(started()[0].split()[1]) < time.time()
