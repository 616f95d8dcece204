"""What helps where the last message failed and left nothing behind that waits: the next one would fail as well."""

from __future__ import annotations

import re
import shlex

import pytest

from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import OnConflict, SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage import holding, open_store
from tests.cli.site import FIRST, SECOND, THIRD, Site
from tests.test_docs import lead

HOUR = 3_600_000
LONG_AFTER = 4_000_000_000_000  # later than anything that a command of a test writes
REFUSING = SyncPolicy(
    on_sim_change=OnConflict.REFUSED, on_terminal_change=OnConflict.REFUSED, on_late=OnConflict.REFUSED
)


def advice(site: Site, mdn: str) -> list[str]:
    (found,) = site.rows("explain", mdn)
    return found["advice"]


def refused(
    site: Site,
    mdn: str,
    key_id: str,
    at: int,
    received_at: int | None = None,
    link: str = "north",
    app_id: str | None = None,
) -> None:
    request = SyncRequest(
        mdn=mdn,
        key_id=key_id,
        app_id=app_id,
        proof=None,
        received_at=at if received_at is None else received_at,
        link=link,
    )
    with open_store(site.database, REFUSING) as store:
        assert store.settle([request], at) == [Outcome.REFUSED]


def expired(site: Site) -> None:
    """Have nothing wait any more, as after remember_days."""
    with site.store() as store:
        assert store.waiting.expire(2**60) > 0


def valid(site: Site, **limits: str) -> None:
    """Import K1 with these limits of its validity."""
    text = f"key_id,key,{','.join(limits)}\nK1,{1:032x},{','.join(limits.values())}\n"
    site.ok("keys", "import", str(site.write("limited.csv", text)), "--vendor", "Acme", "--plaintext")


def test_key_that_is_bound_elsewhere_is_to_be_withdrawn_there(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    refused(site, SECOND, "K1", at=2 * HOUR)
    assert advice(site, SECOND) == [
        f"its last message was refused, since key K1 is bound to {FIRST} for meter: if that is to end, 'kmp-smsd"
        f" bindings withdraw {FIRST} meter', then let the terminal send again (restart it); to have a person decide"
        " such, set [sync] on_sim_change to held, then 'kmp-smsd reload'"
    ]
    site.ok("bindings", "withdraw", FIRST, "meter")
    assert advice(site, SECOND) == [
        "its last message was refused, and nothing waits for what it lacked: let the terminal send again (restart it)"
    ]


def test_request_that_waits_for_another_key_does_not_hide_what_the_last_message_lacked(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    assert site.message(SECOND, "K9", at=HOUR) is Outcome.UNKNOWN_KEY
    refused(site, SECOND, "K1", at=2 * HOUR)
    waits, last = advice(site, SECOND)
    assert waits.startswith("import the key K9 ")
    assert last.startswith(f"its last message was refused, since key K1 is bound to {FIRST} for meter: ")


def test_option_is_that_of_the_gateway_by_which_the_request_came(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.write("kmp-smsd.toml", site.config.read_text() + "[gateway.data]\n")
    site.message(FIRST, "K1", at=HOUR)
    refused(site, SECOND, "K1", at=2 * HOUR, link="data")
    assert "set [gateway.data] on_sim_change to held, then 'kmp-smsd reload'" in advice(site, SECOND)[0]


def key_moves(site, *mdns):
    """K1 comes from these numbers, and nobody has to approve that it moves."""
    moving = SyncPolicy(on_sim_change=OnConflict.MOVED)
    for hour, mdn in enumerate(mdns, 1):
        request = SyncRequest(mdn=mdn, key_id="K1", app_id=None, proof=None, received_at=hour * HOUR, link="north")
        with open_store(site.database, moving) as store:
            store.settle([request], hour * HOUR)


@pytest.mark.parametrize("mdns", [(FIRST, SECOND), (FIRST, FIRST, SECOND), (THIRD, FIRST, SECOND)])
def test_number_whose_key_has_moved_on_is_told_where_it_is(site, mdns):
    site.ready("K1", mdns=(FIRST, SECOND, THIRD))
    key_moves(site, *mdns)
    site.deliver("metering")
    assert advice(site, FIRST) == [
        f"nothing, unless its terminal is to come back: key K1 has moved to {SECOND} for meter"
    ]


def test_key_that_is_bound_here_is_to_be_withdrawn_for_another(site):
    site.ready("K1", "K2", "K3", apps=("meter", "tracker"))
    site.message(FIRST, "K1", at=HOUR, app_id="meter")
    site.message(FIRST, "K3", at=HOUR, app_id="tracker")  # in nobody's way
    site.deliver("metering")
    refused(site, FIRST, "K2", at=2 * HOUR, app_id="meter")
    (now,) = [line for line in advice(site, FIRST) if "refused" in line]
    assert f"since key K1 is bound here for meter: if that is to end, 'kmp-smsd bindings withdraw {FIRST} meter'" in now
    assert "set [sync] on_terminal_change to held" in now


def test_late_message_that_was_refused_is_to_be_sent_again(site):
    site.ready("K1", "K2")
    site.message(FIRST, "K1", at=2 * HOUR)
    site.deliver("metering")
    refused(site, FIRST, "K2", at=3 * HOUR, received_at=HOUR)
    assert advice(site, FIRST)[-1].startswith(
        "its last message was refused, since it is older than the binding that stands: let the terminal send again"
    )


def test_replaced_key_comes_back_once_late_hours_have_passed(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    key_moves(site, FIRST, SECOND)
    refused(site, FIRST, "K1", at=3 * HOUR)
    (now,) = advice(site, FIRST)
    assert now.startswith("its last message was refused, since key K1 was replaced here: until late_hours")
    assert "to have a person decide such, set [sync] on_late to held, then 'kmp-smsd reload'" in now


def test_refusal_by_a_person_is_told_once_and_ends_with_what_stood_in_its_way(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    site.ok("holds", "refuse", "1", "--by", "eve")
    assert site.message(SECOND, "K1", at=3 * HOUR) is Outcome.REFUSED
    (now,) = advice(site, SECOND)
    assert now.startswith("key K1 is refused for meter since a person refused hold 1, until what stood in its way ends")
    site.ok("bindings", "withdraw", FIRST, "meter")
    assert "let the terminal send again" in advice(site, SECOND)[0]
    assert site.message(SECOND, "K1", at=4 * HOUR) is Outcome.BOUND


@pytest.mark.parametrize(("mdn", "app"), [(THIRD, "meter"), (FIRST, "tracker"), (FIRST, "meter")])
def test_refusal_ends_although_the_key_is_bound_elsewhere_again(site, mdn, app):
    site.ready("K1", apps=("meter", "tracker"), mdns=(FIRST, SECOND, THIRD))
    site.message(FIRST, "K1", at=HOUR, app_id="meter")
    site.message(SECOND, "K1", at=2 * HOUR, app_id="meter")
    site.ok("holds", "refuse", "1", "--by", "eve")
    assert site.message(SECOND, "K1", at=3 * HOUR, app_id="meter") is Outcome.REFUSED
    site.ok("bindings", "withdraw", FIRST, "meter")
    assert site.message(mdn, "K1", at=4 * HOUR, app_id=app) is Outcome.BOUND
    assert advice(site, SECOND)[0].startswith(f"its last message was refused, since key K1 is bound to {mdn} for {app}")


def test_refusal_for_the_key_that_is_bound_here_counts_wherever_the_refused_one_is(site):
    site.ready("K1", "K2", "K3", apps=("meter", "tracker"), mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR, app_id="meter")
    site.message(FIRST, "K3", at=HOUR, app_id="tracker")  # in nobody's way
    site.message(FIRST, "K2", at=2 * HOUR, app_id="meter")
    site.ok("holds", "refuse", "1", "--by", "eve")
    assert site.message(SECOND, "K2", at=3 * HOUR, app_id="meter") is Outcome.BOUND
    assert site.message(FIRST, "K2", at=4 * HOUR, app_id="meter") is Outcome.REFUSED
    assert advice(site, FIRST)[0].startswith("key K2 is refused for meter since a person refused hold 1, until what")


def test_refusal_ends_although_the_key_in_its_way_is_bound_here_again(site):
    site.ready("K1", "K2")
    site.message(FIRST, "K1", at=HOUR)
    site.message(FIRST, "K2", at=2 * HOUR)
    site.ok("holds", "refuse", "1", "--by", "eve")
    site.ok("bindings", "withdraw", FIRST, "meter")
    assert site.message(FIRST, "K1", at=3 * HOUR) is Outcome.BOUND
    assert [line for line in advice(site, FIRST) if "refused" in line] == []
    assert site.message(FIRST, "K2", at=4 * HOUR) is Outcome.HELD


def test_late_message_that_a_person_refused_waits_for_late_hours_to_pass(site):
    site.ready("K1", "K2")
    moving = SyncPolicy(on_terminal_change=OnConflict.MOVED)
    for key_id, hour in (("K1", 1), ("K2", 2)):
        request = SyncRequest(mdn=FIRST, key_id=key_id, app_id=None, proof=None, received_at=hour * HOUR, link="north")
        with open_store(site.database, moving) as store:
            store.settle([request], hour * HOUR)
    site.ok("bindings", "withdraw", FIRST, "meter")
    assert site.message(FIRST, "K1", at=3 * HOUR) is Outcome.HELD
    site.ok("holds", "refuse", "1", "--by", "eve")
    assert advice(site, FIRST) == [
        "key K1 is refused for meter since a person refused hold 1, until late_hours have passed since it was"
        " replaced here"
    ]


def test_unknown_key_that_waits_no_longer_is_to_be_sent_again_once_it_is_imported(site):
    site.ready()
    site.ok("registrations", "add", FIRST, "meter")
    site.message(FIRST, "K1", at=HOUR)
    expired(site)
    (now,) = advice(site, FIRST)
    assert now.startswith("import the key K1 ('kmp-smsd keys import'), then let the terminal send again")
    site.ok("keys", "import", str(site.keys("K1")), "--vendor", "Acme", "--plaintext")
    (now,) = advice(site, FIRST)
    assert now.startswith("its last message was unknown_key, and nothing waits for what it lacked: let the terminal")


def test_number_that_was_registered_too_late_is_to_send_again(site):
    site.ready(mdns=())
    valid(site, valid_from="2001-01-01", valid_until="2100-01-01")
    site.message(THIRD, "K1", at=HOUR)
    expired(site)
    site.ok("registrations", "add", THIRD, "meter")
    (now,) = advice(site, THIRD)
    assert now.startswith("its last message was not_registered, and nothing waits for what it lacked: let the terminal")


def test_app_that_the_message_named_is_to_be_registered(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=HOUR, app_id="tracker")
    assert advice(site, FIRST) == [
        f"register the app that the terminal means: kmp-smsd registrations add {FIRST} tracker; its request is decided"
        " again by itself then"
    ]
    expired(site)
    (now,) = advice(site, FIRST)
    assert now == (
        f"register the app that the terminal means: kmp-smsd registrations add {FIRST} tracker; then let the terminal"
        " send again (restart it)"
    )
    site.ok("registrations", "add", FIRST, "tracker")
    assert advice(site, FIRST)[0].startswith("its last message was app_not_registered, and nothing waits")


def test_app_that_a_bound_terminal_names_is_to_be_registered_as_well(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=HOUR)
    site.deliver("metering")
    site.message(FIRST, "K1", at=2 * HOUR, app_id="tracker")
    expired(site)
    assert advice(site, FIRST) == [
        f"register the app that the terminal means: kmp-smsd registrations add {FIRST} tracker; then let the terminal"
        " send again (restart it)"
    ]


@pytest.mark.parametrize("apps", [("meter",), ("meter", "tracker")])
def test_message_that_names_another_app_than_its_key_is_reserved_for_is_to_change(site, apps):
    """No registration helps there."""
    site.ready(apps=apps)
    site.ok("keys", "import", str(_reserved(site)), "--vendor", "Acme", "--plaintext")
    site.message(FIRST, "K1", at=LONG_AFTER, app_id="meter")
    clash = "key K1 is reserved for tracker, and the message names another app: the terminal must name tracker or none"
    assert advice(site, FIRST)[0].startswith(clash)
    expired(site)
    if "tracker" in apps:
        assert advice(site, FIRST)[0].startswith(clash)


def _reserved(site: Site):
    return site.write("reserved.csv", f"key_id,key,app_id\nK1,{1:032x},tracker\n")


def test_app_that_the_key_is_reserved_for_is_to_be_registered(site):
    site.ready()
    site.ok("keys", "import", str(_reserved(site)), "--vendor", "Acme", "--plaintext")
    site.ok("registrations", "add", FIRST, "meter")
    site.message(FIRST, "K1", at=LONG_AFTER)
    register = f"register the app that key K1 is reserved for: kmp-smsd registrations add {FIRST} tracker;"
    assert advice(site, FIRST) == [f"{register} its request is decided again by itself then"]
    expired(site)
    assert advice(site, FIRST) == [f"{register} then let the terminal send again (restart it)"]
    site.message(FIRST, "K1", at=LONG_AFTER + HOUR, app_id="tracker")  # and so does the message
    assert advice(site, FIRST)[0].startswith("register the app that the terminal means: kmp-smsd registrations add")


def test_app_that_the_key_is_reserved_for_was_registered_after_the_message(site):
    site.ready()
    site.ok("keys", "import", str(_reserved(site)), "--vendor", "Acme", "--plaintext")
    assert site.message(FIRST, "K1", at=HOUR) is Outcome.APP_NOT_REGISTERED
    expired(site)
    site.ok("registrations", "add", FIRST, "tracker")
    assert advice(site, FIRST) == [
        "its last message was app_not_registered, and nothing waits for what it lacked: let the terminal send again"
        " (restart it)"
    ]


def test_message_of_which_the_app_is_not_clear_is_to_name_it(site):
    site.ready("K1", apps=("meter", "tracker"))
    assert site.message(FIRST, "K1", at=HOUR) is Outcome.APP_REQUIRED
    expired(site)
    assert advice(site, FIRST) == [
        "its last message was app_required: let the terminal send K1:KEY-ID:APP, remove the registration that is not"
        " meant, or import keys with their app"
    ]
    site.ok("registrations", "remove", FIRST, "tracker")
    assert advice(site, FIRST)[0].endswith("let the terminal send again (restart it), best with its app: K1:KEY-ID:APP")


@pytest.mark.parametrize("waits", [True, False])
def test_key_that_is_no_longer_valid_is_told_from_one_that_is_not_yet(site, waits):
    site.ready()
    site.ok("registrations", "add", FIRST, "meter")
    valid(site, valid_until="2001-01-01")
    assert site.message(FIRST, "K1", at=LONG_AFTER) is Outcome.KEY_NOT_USABLE
    if not waits:
        expired(site)
    assert advice(site, FIRST) == [
        "key K1 is no longer valid ('kmp-smsd keys show K1'): the terminal needs another key"
    ]


@pytest.mark.parametrize(
    ("waits", "then"),
    [(True, "its request is decided again by itself"), (False, "let the terminal send again (restart it)")],
)
def test_key_that_is_not_valid_yet_is_waited_for(site, waits, then):
    site.ready()
    site.ok("registrations", "add", FIRST, "meter")
    valid(site, valid_from="2100-01-01")
    assert site.message(FIRST, "K1", at=HOUR) is Outcome.KEY_NOT_USABLE
    if not waits:
        expired(site)
    assert advice(site, FIRST) == [f"key K1 is not valid yet ('kmp-smsd keys show K1'): once it is, {then}"]


def test_suspended_key_that_nothing_waits_for_is_to_be_sent_again(site):
    site.ready("K1")
    site.ok("keys", "suspend", "K1")
    site.message(FIRST, "K1", at=HOUR)
    expired(site)
    resume = "key K1 is suspended: 'kmp-smsd keys resume K1', then let the terminal send again (restart it)"
    assert advice(site, FIRST) == [resume]


def test_revoked_key_is_told_although_its_last_message_bound_it(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=HOUR)
    site.deliver("metering")
    site.ok("keys", "revoke", "K1", "--yes")
    site.deliver("metering")
    assert advice(site, FIRST) == ["key K1 is deactivated for good: the terminal needs another key"]


def test_key_that_came_by_a_renumbering_needs_no_further_message(site):
    site.ready("K1")
    assert site.message(SECOND, "K1", at=HOUR) is Outcome.NOT_REGISTERED
    expired(site)
    site.message(FIRST, "K1", at=HOUR)
    site.ok("registrations", "renumber", FIRST, SECOND, "--yes")
    site.deliver("metering")
    assert advice(site, SECOND) == ["nothing: what is bound is at its platform"]


@pytest.mark.parametrize("times", [1, 2])  # the second finds its hold open, and is journalled without one
def test_hold_that_closed_is_no_longer_waited_for(site, times):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    for hour in range(2, 2 + times):
        assert site.message(SECOND, "K1", at=hour * HOUR) is Outcome.HELD
    site.ok("registrations", "remove", SECOND, "meter")
    site.ok("registrations", "add", SECOND, "meter")
    assert advice(site, SECOND) == [
        "its last message was held, and nothing waits for what it lacked: let the terminal send again (restart it)"
    ]


def test_hold_of_another_key_does_not_hide_that_nothing_waits(site):
    site.ready("K1", "K2", apps=("meter", "tracker"), mdns=(FIRST, SECOND))
    for hour, mdn in enumerate((FIRST, SECOND), 1):
        site.message(mdn, "K2", at=hour * HOUR, app_id="tracker")
        site.message(mdn, "K1", at=hour * HOUR, app_id="meter")
    site.ok("registrations", "remove", SECOND, "meter")
    site.ok("registrations", "add", SECOND, "meter")
    to_decide, last = advice(site, SECOND)
    assert to_decide.startswith("decide hold 1: ")
    assert last.startswith("its last message was held, and nothing waits for what it lacked: ")


def test_hold_of_another_key_does_not_hide_that_there_are_too_many_of_this_one(site, monkeypatch):
    monkeypatch.setattr(holding, "HOLDS_PER_KEY", 1)
    site.ready("K1", "K2", apps=("meter", "tracker"), mdns=(FIRST, SECOND, THIRD))
    site.message(FIRST, "K1", at=HOUR, app_id="meter")
    site.message(FIRST, "K2", at=HOUR, app_id="tracker")
    site.message(SECOND, "K1", at=2 * HOUR, app_id="meter")
    site.message(THIRD, "K2", at=2 * HOUR, app_id="tracker")
    assert site.message(THIRD, "K1", at=3 * HOUR, app_id="meter") is Outcome.HELD
    to_decide, last = advice(site, THIRD)
    assert to_decide.startswith("decide hold 2: ")
    assert last.startswith("its last message was only journalled as held: so many holds of key K1 wait for a person")


def test_hold_of_a_key_does_not_hide_what_its_next_message_lacked(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    assert site.message(SECOND, "K1", at=3 * HOUR, app_id="tracker") is Outcome.APP_NOT_REGISTERED
    expired(site)
    to_decide, last = advice(site, SECOND)
    assert to_decide.startswith("decide hold 1: ")
    assert last.startswith("register the app that the terminal means: ")


def test_key_that_is_bound_here_for_another_app_does_not_hide_that_nothing_waits(site):
    site.ready("K1", apps=("meter", "tracker"))
    site.message(FIRST, "K1", at=HOUR, app_id="meter")
    site.deliver("metering")
    assert site.message(FIRST, "K1", at=2 * HOUR, app_id="tracker") is Outcome.HELD
    site.ok("registrations", "remove", FIRST, "tracker")
    site.ok("registrations", "add", FIRST, "tracker")
    assert advice(site, FIRST)[0].startswith("its last message was held, and nothing waits for what it lacked: ")


@pytest.mark.parametrize("outcome", [Outcome.MALFORMED, Outcome.NOT_FOR_US, Outcome.ERROR])
def test_message_that_was_no_request_is_told_with_what_helps(site, outcome):
    site.ready("K1")
    unfit = Unfit(outcome=outcome, mdn=FIRST, received_at=HOUR, link="north")
    with site.store() as store:
        store.settle([unfit], HOUR)
    (now,) = advice(site, FIRST)
    assert now.startswith(f"its last message was {outcome.value}: ")


def test_receipt_of_a_reply_asks_for_nothing(site):
    site.ready("K1")
    with site.store() as store:
        store.settle([Unfit(outcome=Outcome.RECEIPT, mdn=FIRST, received_at=HOUR, link="north")], HOUR)
    assert advice(site, FIRST) == ["nothing: it is registered, and its terminal's next message is bound"]


def test_registered_number_that_left_the_plan_is_told_as_such(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=HOUR)
    site.deliver("metering")
    text = site.config.read_text().replace('prefix = "8613"', 'prefix = "8615"')
    site.write("kmp-smsd.toml", text)
    now = site.ok("explain", FIRST).partition("What to do now\n")[2]
    assert now.startswith(f"  1. +{FIRST} is no number of the numbering plan")


def test_commands_that_it_names_exist(site):
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    refused(site, SECOND, "K1", at=2 * HOUR)
    site.message(FIRST, "K9", at=3 * HOUR, app_id="tracker")
    expired(site)
    said = " ".join(sentence for mdn in (FIRST, SECOND) for sentence in advice(site, mdn))
    named = re.findall(r"kmp-smsd ([a-z][^;':()]*)", said)
    assert len(named) >= 3
    assert [lead(shlex.split(command)) for command in named] == [None] * len(named)
