"""What would become of a message: the truth, and nothing written."""

from __future__ import annotations

import contextlib
import json

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.cli.settings import now_ms
from kmp_smsd.storage import holding, open_store
from kmp_smsd.storage.outbox import Reject
from tests.cli.site import FIRST, LINK, SECOND, THIRD, Site

HOUR = 3_600_000


@pytest.fixture
def site(site: Site) -> Site:
    site.ready("K1", "K2", "K3", mdns=(FIRST, SECOND))
    site.link(2775)
    site.message(FIRST, "K1", at=HOUR)
    return site


def content(site: Site) -> dict[str, list]:
    with contextlib.closing(sqlite3.connect(site.database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        return {name: connection.execute(f"SELECT * FROM {name}").fetchall() for name in tables}


def told(site: Site, *words: str) -> dict:
    (found,) = site.rows("simulate", *words)
    return found


CASES = {
    "bound": (SECOND, "K1:K2"),
    "already_bound": (FIRST, "K1:K1"),
    "held": (SECOND, "K1:K1"),
    "not_registered": (THIRD, "K1:K2"),
    "unknown_key": (SECOND, "K1:K9"),
    "app_not_registered": (SECOND, "K1:K2:tracker"),
}


@pytest.mark.parametrize("outcome", CASES)
def test_it_says_what_then_happens(site, outcome):
    mdn, text = CASES[outcome]
    _, key_id, *app = text.split(":")
    said = told(site, mdn, text)
    assert (said["outcome"], said["answer"]) == (outcome, 0)
    assert site.message(mdn, key_id, app_id=app[0] if app else None, at=2 * HOUR).value == outcome


@pytest.mark.parametrize("outcome", CASES)
def test_nothing_is_written(site, outcome):
    before = content(site)
    told(site, *CASES[outcome])
    assert content(site) == before


@pytest.mark.parametrize(
    ("words", "outcome", "row"),
    [
        (("+447700900123", "K1:K1"), "invalid_mdn", "3"),
        ((FIRST, "hello"), "malformed", "4"),
        ((FIRST, "4b313a", "--hex"), "malformed", "4"),
        (("13800000001", "K1:K1", "--ton", "2"), "already_bound", "10"),
        ((FIRST, "004b0031003a004b0031", "--hex", "--data-coding", "8"), "already_bound", "10"),
        ((FIRST, "K1:K1", "--npi", "6"), "invalid_mdn", "3"),
    ],
)
def test_it_is_read_as_a_link_reads_it(site, words, outcome, row):
    said = told(site, *words)
    assert (said["outcome"], said["row"]) == (outcome, row)
    assert said["answer_name"] == ("ESME_RX_R_APPN (0x66)" if row in "34" else "ESME_ROK (0x00)")


def test_message_to_another_destination_is_not_for_us(site):
    site.write("kmp-smsd.toml", site.config.read_text() + '[sync]\nshort_codes = ["10690000"]\n')
    assert told(site, FIRST, "K1:K1")["outcome"] == "already_bound"
    assert told(site, FIRST, "K1:K1", "--to", "10699999")["outcome"] == "not_for_us"


def test_message_comes_from_a_network_and_bearer_that_the_link_accepts(site):
    config = site.config.read_text()
    site.write("kmp-smsd.toml", config.replace("system_id", "accepted_network_types = [3, 1]\nsystem_id"))
    assert told(site, FIRST, "K1:K1")["outcome"] == "already_bound"


def test_late_message_depends_on_when_it_was_received(site):
    site.message(FIRST, "K1", at=5 * HOUR)
    with open_store(site.database) as store:
        store.bindings.withdraw(FIRST, "meter", 6 * HOUR)
    site.message(FIRST, "K2", at=7 * HOUR)
    late = told(site, FIRST, "K1:K3", "--received-at", "1970-01-01T06:30:00+00:00")
    assert (late["outcome"], late["row"]) == ("held", "11")
    assert (told(site, FIRST, "K1:K3")["outcome"], told(site, FIRST, "K1:K3")["row"]) == ("held", "12")


def test_what_would_move_is_named_with_what_would_end(site):
    site.write("kmp-smsd.toml", site.config.read_text() + '[sync]\non_sim_change = "moved"\n')
    with site.store() as store:
        store.routes.set({"meter": "metering"})
    said = told(site, SECOND, "K1:K1")
    assert (said["outcome"], said["platform"], said["binds"]) == ("moved", "metering", True)
    assert said["ends"] == [{"key_id": "K1", "mdn": FIRST, "app_id": "meter"}]
    page = site.ok("simulate", SECOND, "K1:K1")
    assert f"the binding of key K1 to {FIRST} for meter ends" in page
    assert page.endswith("kmp-smsd: nothing was written\n")


def test_hold_that_stands_would_be_refreshed(site):
    assert told(site, SECOND, "K1:K1")["opens_hold"] is True
    site.message(SECOND, "K1", at=2 * HOUR)
    said = told(site, SECOND, "K1:K1")
    assert (said["opens_hold"], said["hold"]) == (False, 1)


def test_key_with_too_many_holds_gets_no_further_one(site, monkeypatch):
    monkeypatch.setattr(holding, "HOLDS_PER_KEY", 1)
    site.ok("registrations", "add", THIRD, "meter")
    site.message(SECOND, "K1", at=2 * HOUR)
    said = told(site, THIRD, "K1:K1")
    assert (said["outcome"], said["opens_hold"], said["hold"]) == ("held", False, None)
    assert "it is only journalled" in site.ok("simulate", THIRD, "K1:K1")
    site.message(THIRD, "K1", at=3 * HOUR)
    assert [row["mdn"] for row in site.rows("holds", "list")] == [SECOND]
    (explained,) = site.rows("explain", THIRD)
    assert explained["advice"][0].startswith("its last message was only journalled as held")


def test_repeat_that_would_have_a_rejected_delivery_offered_again_says_so(site):
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(2 * HOUR))
        due = store.outbox.due("metering", 2**60, 10)
        store.outbox.settle("metering", [Reject(row, 2 * HOUR, "no room") for row in due], 2 * HOUR)
    said = told(site, FIRST, "K1:K1")
    assert (said["outcome"], said["offers_again"], said["platform"]) == ("already_bound", True, "metering")
    assert "platform metering is offered again what it rejected" in site.ok("simulate", FIRST, "K1:K1")
    assert site.message(FIRST, "K1", at=now_ms()).value == "already_bound"
    assert told(site, FIRST, "K1:K1")["offers_again"] is False
    assert "nothing changes" in site.ok("simulate", FIRST, "K1:K1")


def test_request_that_would_wait_says_so(site):
    assert told(site, SECOND, "K1:K9")["waits"] is True
    assert "it waits" in site.ok("simulate", SECOND, "K1:K9")


def test_link_is_named_where_there_are_several(site):
    text = site.config.read_text() + LINK.format(port=2776, directory=site.directory).replace("smsc.lab", "smsc.two")
    site.write("kmp-smsd.toml", text)
    code, sentence = site.refused("simulate", FIRST, "K1:K1")
    assert (code, sentence.startswith("say by which link it comes: --link with one of lab, two")) == (64, True)
    assert told(site, FIRST, "K1:K1", "--link", "two")["outcome"] == "already_bound"
    assert site.refused("simulate", FIRST, "K1:K1", "--link", "three")[0] == 78


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("K1:\u20ac",), "PAYLOAD has characters that Latin-1 has not: give the octets with --hex"),
        (("4g", "--hex"), "PAYLOAD is not hexadecimal"),
        (("K1:K1", "--received-at", "yesterday"), "'yesterday': write a time as 2026-01-31T12:00:00"),
    ],
)
def test_mistakes_are_explained(site, words, sentence):
    code, said = site.refused("simulate", FIRST, *words)
    assert code == 64
    assert sentence in said


def test_json_is_one_object(site):
    done = site.run("simulate", FIRST, "K1:K1", "--json")
    assert set(json.loads(done.stdout)) >= {"outcome", "row", "answer", "platform", "ends", "hold", "waits", "replies"}
