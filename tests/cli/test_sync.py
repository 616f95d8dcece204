"""`sync submit`: requests that a trusted gateway hands in."""

from __future__ import annotations

import json
import subprocess
from typing import Any

from kmp_smsd.cli.settings import now_ms
from kmp_smsd.storage import open_store
from tests.cli.site import FIRST, LINK, SECOND, Site, until
from tests.storage.stock import KNOWN


def site_with_gateway(site: Site) -> Site:
    site.ready("K1", mdns=(FIRST,))
    site.config.write_text(site.config.read_text() + "[gateway.data]\n")
    return site


def lines(*requests: Any) -> str:
    return "".join(json.dumps(request) + "\n" for request in requests)


def submit(site: Site, text: str, *options: str) -> Any:
    return site.run("sync", "submit", "--gateway", "data", *options, str(site.write("requests.jsonl", text)))


def test_request_is_on_disk_though_no_intake_runs(site):
    site_with_gateway(site)
    done = submit(site, lines({"id": "1", "mdn": FIRST, "payload": "K1:K1"}), "--wait", "0")
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {"id": "1", "result": "accepted"}
    assert done.stderr == (
        "kmp-smsd: 1 request on disk and not decided yet: is intake running, and does it know [gateway.data]? It"
        " does after 'kmp-smsd reload'\n"
    )
    with open_store(site.database, KNOWN) as store:
        assert store.settle_again(now_ms()) == ["bound"]


def test_line_that_is_no_request_is_told_and_the_others_are_handed_in(site):
    site_with_gateway(site)
    good = {"id": "1", "mdn": FIRST, "payload": "K1:K1"}
    done = submit(site, lines({**good, "payload": "hello"}, good) + "\n{\n", "--wait", "0")
    assert done.exit_code == 1
    assert [json.loads(line)["result"] for line in done.stdout.splitlines()] == ["error", "accepted", "error"]
    assert [json.loads(line).get("line") for line in done.stdout.splitlines()] == [1, None, 4]
    assert "2 errors in 3 lines" in done.stderr


def test_gateway_must_be_configured(site):
    site_with_gateway(site)
    done = site.run("sync", "submit", "--gateway", "dta", str(site.write("requests.jsonl", "")))
    assert done.exit_code == 78
    assert "no gateway 'dta'" in done.stderr
    assert "there: data" in done.stderr


def test_gateway_and_link_have_names_of_their_own(site):
    site_with_gateway(site)
    link = LINK.format(port=2775, directory=site.directory)
    site.config.write_text(site.config.read_text() + "[gateway.lab]\n" + link)
    done = site.run("check-config")
    assert done.exit_code == 78
    assert "[gateway.lab]" in done.stdout + done.stderr
    assert "has a link's name" in done.stdout + done.stderr


def test_number_of_a_stranger_is_no_fault_of_the_line(site):
    site_with_gateway(site)
    done = submit(site, lines({"id": "1", "mdn": SECOND, "payload": "K1:K1"}), "--wait", "0")
    assert json.loads(done.stdout) == {"id": "1", "result": "accepted"}


def test_number_that_was_erased_meanwhile_is_not_said_to_be_accepted(site):
    site_with_gateway(site)
    with site.process(
        "sync", "submit", "--gateway", "data", "--wait", "30",
        str(site.write("requests.jsonl", lines({"id": "1", "mdn": FIRST, "payload": "K1:K1"}))),
    ) as process:  # fmt: skip
        with open_store(site.database) as store:
            until(lambda: store.submissions.undecided([1]) == {1})
            store.erasing.erase(FIRST, now_ms())
        assert json.loads(process.stdout.read()) == {
            "id": "1", "result": "not_registered", "reason": "the number was erased meanwhile",
        }  # fmt: skip


def test_gateway_hears_of_decisions_again_once_intake_is_back(site):
    """In one session: while what it handed in waits it does not wait for each line, and from then on it does."""
    site_with_gateway(site)
    with (
        site.process("sync", "submit", "--gateway", "data", "--wait", "5", "-", stdin=subprocess.PIPE) as process,
        open_store(site.database, KNOWN) as store,
    ):

        def ask(number: int) -> None:
            process.stdin.write(lines({"id": str(number), "mdn": FIRST, "payload": "K1:K1"}))
            process.stdin.flush()

        def told() -> Any:
            return json.loads(process.stdout.readline())["result"]

        ask(1)
        assert told() == "accepted"
        until(lambda: store.settle_again(now_ms()) == ["bound"])
        ask(2)
        until(lambda: store.settle_again(now_ms()) == ["already_bound"])
        assert told() == "already_bound"
        process.stdin.close()
        assert process.wait(30) == 0
        assert process.stderr.read() == ""
