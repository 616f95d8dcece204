"""The alarms and the dashboard in conf/: Prometheus understands them, and what they ask for exists."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.monitoring.exposition import expose
from kmp_smsd.service.status import PlatformWord
from tests.monitoring.promtool import promtool
from tests.monitoring.snapshots import dispatch, intake

CONF = Path(__file__).parents[2] / "conf"
RULES = CONF / "prometheus" / "kmp-smsd.rules.yml"
TESTS = CONF / "prometheus" / "kmp-smsd.rules.test.yml"
DASHBOARD = json.loads((CONF / "grafana" / "kmp-smsd.json").read_text(encoding="utf-8"))


def exposed() -> dict[str, set[str]]:
    """The labels of each metric that one of the roles exposes."""
    found: dict[str, set[str]] = {}
    for snapshot in (intake(), dispatch()):
        for line in expose(snapshot, "")[1].decode().splitlines():
            if match := re.match(r"([a-z_]+)(?:\{(.*)\})? ", line):
                found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


def named(expression: str) -> set[str]:
    return set(re.findall(r"\b(?:kmp_smsd|process)_\w+", expression))


def selected(expression: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric of the expression that has a selector, and the labels in that."""
    for name, selector in re.findall(r"\b((?:kmp_smsd|process)_\w+)\{([^}]*)\}", expression):
        yield name, set(re.findall(r"(\w+)=", selector)) - {"job", "instance"}


def expressions(value: Any) -> Iterator[str]:
    """All that the dashboard asks Prometheus."""
    if isinstance(value, dict):
        yield from (one for key, one in value.items() if key in ("expr", "definition"))
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from expressions(one)


def data_sources(value: Any) -> Iterator[Any]:
    if isinstance(value, dict) and "datasource" in value:
        yield value["datasource"]
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from data_sources(one)


def alarms() -> list[str]:
    return re.findall(r"^ +- alert: (\w+)$", RULES.read_text(encoding="utf-8"), re.MULTILINE)


def test_promtool_takes_the_rules() -> None:
    status, said = promtool("check", "rules", "--lint=all", "--lint-fatal", RULES)
    assert status == 0, said
    assert f"SUCCESS: {len(alarms())} rules found" in said


def test_alarms_ring_when_they_should_and_not_when_all_is_well() -> None:
    status, said = promtool("test", "rules", TESTS)
    assert status == 0, said


def test_wrong_alarm_would_be_noticed(tmp_path: Path) -> None:
    head, *tests = re.split(r"^(?=  - name: )", TESTS.read_text(encoding="utf-8"), flags=re.MULTILINE)
    (tmp_path / TESTS.name).write_text(head + "".join(one for one in tests if "KmpSmsdLinkDown" in one))
    (tmp_path / RULES.name).write_text(RULES.read_text(encoding="utf-8").replace("== 0 unless", "== 1 unless"))
    status, said = promtool("test", "rules", tmp_path / TESTS.name)
    assert status == 1
    assert "KmpSmsdLinkDown" in said


def test_every_alarm_is_seen_ringing_has_a_severity_and_says_what_to_do() -> None:
    text, tried = RULES.read_text(encoding="utf-8"), TESTS.read_text(encoding="utf-8")
    ringing = re.findall(r"^ +alertname: (\w+)\n +exp_alerts:\n", tried, re.MULTILINE)
    assert set(ringing) == set(alarms())
    assert Counter(alarms()).most_common(1)[0][1] == 1
    for rule in re.split(r"^ +- alert: ", text, flags=re.MULTILINE)[1:]:
        assert re.search(r"labels: \{severity: (critical|warning)\}", rule), rule
        assert re.search(r'summary: ".+"\n +runbook: ".+"\n', rule), rule


@pytest.mark.parametrize("path", [RULES, TESTS], ids=lambda path: path.name)
def test_every_metric_of_the_rules_exists(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(named(text)) > 20
    assert named(text) <= set(exposed())
    for name, labels in selected(text):
        assert labels <= exposed()[name], name


def test_every_metric_of_the_dashboard_exists_with_its_labels() -> None:
    found = list(expressions(DASHBOARD))
    assert len(found) > 30
    for expression in found:
        assert named(expression) or "ALERTS" in expression, expression
        assert named(expression) <= set(exposed()), expression
        for name, labels in selected(expression):
            assert labels <= exposed()[name], expression


def test_dashboard_knows_each_word_of_a_platform_once() -> None:
    (timeline,) = (one for one in expressions(DASHBOARD) if "kmp_smsd_push_state{" in one)
    words = [word for one in re.findall(r'state=~?"([^"]*)"', timeline) for word in one.split("|")]
    assert sorted(words) == sorted(word.value for word in PlatformWord)


def test_dashboard_shows_all_metrics_but_those_that_others_tell() -> None:
    shown = set().union(*map(named, expressions(DASHBOARD)))
    assert {name for name in exposed() if name.startswith("kmp_smsd_")} - shown == {
        "kmp_smsd_state",
        "kmp_smsd_config_last_reload_success_timestamp_seconds",
        "kmp_smsd_config_needs_restart",
        "kmp_smsd_store_available",
        "kmp_smsd_store_schema_version",
        "kmp_smsd_store_last_write_timestamp_seconds",
        "kmp_smsd_smpp_link_state",
        "kmp_smsd_smpp_link_state_since_timestamp_seconds",
        "kmp_smsd_smpp_last_sent_timestamp_seconds",
        "kmp_smsd_smpp_last_error_timestamp_seconds",
        "kmp_smsd_push_paused",
        "kmp_smsd_push_state_since_timestamp_seconds",
        "kmp_smsd_push_last_error_timestamp_seconds",
        "kmp_smsd_push_next_try_timestamp_seconds",
        "kmp_smsd_push_certificate_left_seconds",
    }


def test_promtool_takes_every_expression_of_the_dashboard(tmp_path: Path) -> None:
    """As recording rules, with Grafana's variables filled in."""
    rules = [
        {"record": f"x:{number}", "expr": expression.replace("$__rate_interval", "5m").replace("$", "")}
        for number, expression in enumerate(expressions(DASHBOARD))
        if not expression.startswith("label_values(")
    ]
    path = tmp_path / "dashboard.rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    status, said = promtool("check", "rules", path)
    assert status == 0, said
    assert f"SUCCESS: {len(rules)} rules found" in said


def test_dashboard_fits_every_grafana() -> None:
    """It asks which data source, instance, link and platform, and knows no ID of ours."""
    variables = {one["name"]: one for one in DASHBOARD["templating"]["list"]}
    assert list(variables) == ["datasource", "instance", "link", "platform"]
    assert variables["datasource"]["type"] == "datasource"
    assert DASHBOARD["id"] is None
    assert {json.dumps(one, sort_keys=True) for one in data_sources(DASHBOARD)} == {
        '{"type": "prometheus", "uid": "${datasource}"}'
    }
    for name in ("instance", "link", "platform"):
        assert any(f'{name}=~"${name}"' in expression for expression in expressions(DASHBOARD["panels"])), name


def test_no_panel_covers_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert cell not in taken, (panel["title"], taken.get(cell))
            taken[cell] = panel["title"]
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
