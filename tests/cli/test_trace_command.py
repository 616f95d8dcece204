"""`kmp-smsd trace` on a running intake: what the log then has, and when it ends."""

from __future__ import annotations

import json

import pytest

from kmp_smsd.simulator.server import SmscServer
from tests.cli.site import FIRST, until
from tests.cli.test_daemon import start


@pytest.fixture
def smsc():
    with SmscServer() as server:
        yield server


@pytest.fixture
def intake(site, smsc):
    site.ready("K1")
    daemon = start(site, smsc, "intake", "--log-format", "json")
    yield daemon
    if daemon.process.poll() is None:
        daemon.process.terminate()
        daemon.end()


def events(daemon, name):
    return [line for line in map(json.loads, list(daemon.said)) if line["event"] == name]


def traced(daemon):
    return [(line["direction"], line["pdu"].split(":")[0]) for line in events(daemon, "pdu_traced")]


def test_a_traced_link_has_its_pdus_in_the_log_without_their_secrets_until_it_is_told_to_stop(site, smsc, intake):
    said = site.ok("trace", "lab", "on", "--minutes", "5")
    assert said == "lab: traced for 5 minutes, or until the next reload: journalctl KMP_EVENT=pdu_traced\n"
    assert "traced for 1 minute, or" in site.ok("trace", "lab", "on", "--minutes", "1")
    assert smsc.send(FIRST, "K1:K1").result(20) == 0
    until(lambda: len(traced(intake)) >= 2)
    assert traced(intake) == [("received", "deliver_sm"), ("sent", "deliver_sm_resp")]
    assert site.ok("trace", "lab", "off") == "lab: no longer traced\n"
    assert smsc.send(FIRST, "K1:K1").result(20) == 0
    intake.process.terminate()
    assert intake.end() == 0
    assert len(traced(intake)) == 2
    (ended,) = events(intake, "trace_ended")
    assert (ended["reason"], ended["pdus"], ended["untold"]) == ("it was asked to", 2, 0)
    log = "".join(intake.said)
    for secret in (FIRST, "K1:K1"):
        assert secret not in log
        assert secret.encode().hex() not in log.replace(" ", "")


def test_a_reload_ends_a_trace(site, intake):
    site.ok("trace", "lab", "on")
    site.ok("reload")
    until(lambda: events(intake, "trace_ended"))
    assert events(intake, "trace_ended")[0]["reason"] == "the configuration was reloaded"


def test_a_link_that_is_not_there_is_not_traced(site, intake):
    assert site.refused("trace", "lob", "on") == (
        1,
        "no link 'lob' runs (did you mean 'lab'?): see 'kmp-smsd status'",
    )
    assert events(intake, "trace_started") == []


def test_a_trace_that_nobody_would_see_is_refused_with_the_remedy(site, intake):
    site.ok("log-level", "smpp", "error")
    code, sentence = site.refused("trace", "lab", "on")
    assert (code, "run 'kmp-smsd log-level smpp info' before" in sentence) == (1, True)
    site.ok("log-level", "smpp", "info")
    site.ok("trace", "lab", "on")
    until(lambda: events(intake, "trace_started"))
