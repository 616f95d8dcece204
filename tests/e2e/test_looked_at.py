"""Metrics, health and status page of a carrier at work, as Prometheus and a browser ask for them."""

from __future__ import annotations

import http.client
import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kmp_smsd.simulator.ports import ReservedPort
from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier
from tests.monitoring import snapshots
from tests.monitoring.promtool import promtool
from tests.sshd import require_sshd

WITHIN_S = 20.0  # of what is counted every few seconds


class Looked(Carrier):
    """A carrier whose intake is looked at by TCP, and its dispatch by a socket."""

    def __init__(self, directory: Path) -> None:
        self._reserved = ReservedPort()
        self.port, self.socket = self._reserved.number, directory / "dispatch-http.sock"
        listening = {"intake": f"127.0.0.1:{self.port}", "dispatch": f"unix:{self.socket}"}
        super().__init__(directory, monitoring=listening)

    def get(self, role: str, path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            if role == "dispatch":
                connection.sock = socket.socket(socket.AF_UNIX)
                connection.sock.settimeout(10)
                connection.sock.connect(str(self.socket))
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def figure(self, role: str, name: str, **labels: str) -> float | None:
        """One sample of what Prometheus reads."""
        _, text = self.get(role, "/metrics")
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == f"kmp_smsd_{name}" and sample.labels == labels:
                    return float(sample.value)
        return None

    def wait_for_figure(self, value: float, role: str, name: str, **labels: str) -> None:
        self.wait_for(lambda: self.figure(role, name, **labels) == value, f"{name} {labels} to be {value}", WITHIN_S)


@pytest.fixture(scope="module")
def looked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Looked]:
    require_sshd()
    with Looked(tmp_path_factory.mktemp("looked")) as one:
        dispatch = one.start_role_unbound("dispatch")
        one.wait_for(lambda: one.socket.exists() or dispatch.process.poll() is not None, "dispatch to listen")
        one.start_role("intake")
        yield one
        for role in one.roles:
            if role.process.poll() is None:
                assert role.stop() == 0


def test_one_message_is_followed_from_the_smsc_to_the_platform(looked: Looked) -> None:
    before = looked.figure("intake", "key_sync_total", outcome="bound")
    mdn, key_id = looked.terminal("meter")
    assert looked.say(mdn, f"K1:{key_id}") == CommandStatus.ESME_ROK
    assert looked.say(mdn, "hello") == CommandStatus.ESME_RX_R_APPN
    assert before == 0
    assert looked.figure("intake", "smpp_link_up", link="lab") == 1
    assert looked.figure("intake", "sms_received_total", link="lab") == 2
    looked.wait_for_figure(1, "intake", "key_sync_total", outcome="bound")
    looked.wait_for_figure(1, "intake", "key_sync_total", outcome="malformed")
    assert looked.figure("intake", "smpp_answers_total", link="lab", status="ESME_ROK") == 1
    assert looked.figure("intake", "smpp_answers_total", link="lab", status="ESME_RX_R_APPN") == 1
    looked.wait_for_figure(1, "dispatch", "push_attempts_total", platform="metering", result="confirmed")
    looked.wait_for_figure(1, "dispatch", "push_duration_seconds_count", platform="metering")
    looked.wait_for_figure(0, "dispatch", "push_pending", platform="metering")


@pytest.mark.parametrize("role", ["intake", "dispatch"])
def test_promtool_finds_nothing_to_mend_in_what_a_role_says(looked: Looked, role: str) -> None:
    _, text = looked.get(role, "/metrics")
    assert promtool("check", "metrics", stdin=text.encode()) == (0, "")
    assert "process_resident_memory_bytes " in text


def test_nobody_who_looks_sees_a_number_or_a_key(looked: Looked) -> None:
    mdn, key_id = looked.terminal("tracker")
    assert looked.say(mdn, f"K1:{key_id}") == CommandStatus.ESME_ROK
    assert looked.say(mdn, f"K1:{key_id}:meter") == CommandStatus.ESME_ROK  # refused
    looked.settled()
    for role, row in (("intake", "lab"), ("dispatch", "fleet")):
        for path in ("/", "/metrics", "/status.json"):
            status, text = looked.get(role, path)
            assert status == 200
            assert row in text
            assert mdn not in text
            assert key_id not in text
            assert looked.keys[key_id].hex() not in text


@pytest.mark.parametrize("role", ["intake", "dispatch"])
def test_a_snapshot_has_the_fields_of_those_that_the_tests_show(looked: Looked, role: str) -> None:
    def fields(value: Any) -> Any:
        """The names of the fields; those of counts, which differ from day to day, left out."""
        if isinstance(value, list):
            return fields(value[0]) if value and isinstance(value[0], dict) else None
        if not isinstance(value, dict):
            return None
        counts = ("outcomes", "answers", "bind_failures", "log_levels")
        return {name: None if name in counts else fields(one) for name, one in value.items()}

    shown = getattr(snapshots, role)()
    assert fields(json.loads(looked.get(role, "/status.json")[1])) == fields(shown)


def test_intake_without_a_link_is_alive_but_not_ready(looked: Looked) -> None:
    ready = (200, {"v": 1, "ready": True, "reasons": []})
    assert readiness(looked) == ready
    looked.command("pause", "smsc", "lab")
    not_ready = (503, {"v": 1, "ready": False, "reasons": ["no link is bound"]})
    looked.wait_for(lambda: readiness(looked) == not_ready, "intake not to be ready", WITHIN_S)
    assert looked.get("intake", "/healthz")[0] == 200
    assert looked.figure("intake", "smpp_link_paused", link="lab") == 1
    assert '<tr class="paused">' in looked.get("intake", "/")[1]
    looked.command("resume", "smsc", "lab")
    looked.wait_for(lambda: readiness(looked) == ready, "intake to be ready again", WITHIN_S)


def test_role_that_drains_says_that_it_is_not_ready(looked: Looked) -> None:
    looked.command("drain")
    status, told = readiness(looked)
    assert (status, told["reasons"][0]) == (503, "intake is draining")
    assert looked.figure("dispatch", "state", state="draining") == 1
    assert '<span class="badge busy">draining</span>' in looked.get("dispatch", "/")[1]
    looked.command("resume")
    looked.wait_for(lambda: readiness(looked)[0] == 200, "intake to be ready again", WITHIN_S)
    assert looked.figure("dispatch", "state", state="running") == 1


def readiness(looked: Looked) -> tuple[int, Any]:
    status, text = looked.get("intake", "/readyz")
    return status, json.loads(text)


def test_socket_of_a_killed_role_does_not_hinder_the_next(looked: Looked) -> None:
    assert stat.S_IMODE(looked.socket.stat().st_mode) == 0o660
    next(role for role in looked.roles if role.name == "dispatch").kill()
    assert looked.socket.exists()
    with pytest.raises(ConnectionRefusedError):
        looked.get("dispatch", "/healthz")
    looked.start_role_unbound("dispatch")

    def answers() -> bool:
        try:
            return looked.get("dispatch", "/healthz")[0] == 200
        except OSError:
            return False

    looked.wait_for(answers, "the new dispatch to answer", WITHIN_S)
    assert looked.roles[-1].stop() == 0
    assert not looked.socket.exists()
