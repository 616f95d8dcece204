"""What the night shift is told about a number."""

from __future__ import annotations

import re
import shlex

import pytest
from msgspec.structs import replace

from kmp_smsd.cli import explain as explain_module
from kmp_smsd.cli.program import program
from kmp_smsd.diagnosis import number as number_module
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.reply import ReplyResult, ReplyState, ReplyTo
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage import journal
from kmp_smsd.storage.outbox import Postpone, Reject
from kmp_smsd.storage.platforms import PlatformState
from tests.cli.site import FIRST, SECOND, THIRD, Site
from tests.storage.stock import NOW, confirm_all, sync
from tests.test_docs import lead

HOUR = 3_600_000


def told(site: Site, mdn: str) -> tuple[list[str], list[str], list[str]]:
    """The sentences of the story, of how it stands, and of what to do."""
    (found,) = site.rows("explain", mdn)
    return [event["sentence"] for event in found["story"]], found["standing"], found["advice"]


def settle_due(site: Site, kind, platform="metering"):
    with site.store() as store:
        store.routes.set({"meter": platform})
        list(store.routes.move(2_000_000))
        due = store.outbox.due(platform, 2**60, 10)
        given = {Reject: (3_000_000, "no room"), Postpone: (2**61, "the disk is full")}[kind]
        store.outbox.settle(platform, [kind(row, *given) for row in due], 3_000_000)


def test_number_whose_key_is_at_its_platform_needs_nothing(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=HOUR)
    site.deliver("metering")
    story, stands, now = told(site, FIRST)
    assert story == [
        "message by north with key K1 for meter: bound (row 13), the key was bound",
        "registered for meter",
    ]
    assert [line for line in stands if "metering has confirmed key K1" in line]
    assert now == ["nothing: what is bound is at its platform"]


def test_registered_number_that_never_sent_is_told_to_send(site):
    site.ready("K1")
    story, stands, (now,) = told(site, FIRST)
    assert story == ["registered for meter"]
    assert stands == ["meter: no key is bound"]
    assert now.startswith("no message of it is in the journal: let the terminal send again")


def test_number_of_which_nothing_is_known_is_to_be_registered_or_its_smsc_looked_at(site):
    site.ready("K1")
    story, stands, (register, look) = told(site, THIRD)
    assert (story, stands) == ([], ["nothing is known of this number"])
    assert register.startswith(f"if it should be served: kmp-smsd registrations add {THIRD} APP (it was never")
    assert look.startswith("if its terminal did send: see with 'kmp-smsd doctor' whether its SMSC is reached")


def test_number_that_never_sent_and_is_not_registered_is_not_told_to_send(site):
    site.ready("K1")
    site.ok("registrations", "remove", FIRST, "meter")
    _, stands, now = told(site, FIRST)
    assert stands == ["it has no registration"]
    assert now == [f"if it should be served: kmp-smsd registrations add {FIRST} APP"]


def test_unregistered_number_is_to_be_registered_and_what_waits_is_bound_then(site):
    site.ready("K1", mdns=())
    site.message(THIRD, "K1")
    story, stands, (now,) = told(site, THIRD)
    assert story == ["message by north with key K1: not_registered (row 5), the number had no registration"]
    assert "a request with key K1 waits, since it was not_registered" in stands
    add = f"kmp-smsd registrations add {THIRD} APP"
    assert now == f"if it should be served: {add}; what waits is decided again by itself then"


def test_unknown_key_is_to_be_imported(site):
    site.ready("K1")
    site.message(FIRST, "K9")
    assert told(site, FIRST)[2][0].startswith("import the key K9 ('kmp-smsd keys import'): it is bound by itself then;")
    keys = site.write("k9.csv", f"key_id,key\nK9,{9:032x}\n")
    site.ok("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    assert told(site, FIRST)[2] == ["the request with key K9 is to be decided again: is intake running?"]


def test_request_that_waits_for_intake_alone_says_so(site):
    site.ready("K1", apps=("meter", "tracker"))
    site.message(FIRST, "K1")
    assert told(site, FIRST)[2][0].startswith("let the terminal send K1:KEY-ID:APP, remove the registration")
    site.ok("registrations", "remove", FIRST, "tracker")
    assert told(site, FIRST)[2] == ["the request with key K1 is to be decided again: is intake running?"]


def test_hold_is_to_be_decided_and_it_is_told_what_approving_ends(site):
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.ok("registrations", "add", SECOND, "tracker")
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K2", at=HOUR, app_id="tracker")  # in nobody's way
    site.deliver("metering")
    site.message(SECOND, "K1", at=2 * HOUR, app_id="meter")
    story, stands, (now,) = told(site, SECOND)
    assert "hold 1, key K1 for meter, waits for a person: the key is bound elsewhere" in stands
    assert any(line.startswith("message by north with key K1 for meter: held (row 12), a person") for line in story)
    assert f"binds key K1 for meter and ends its binding to {FIRST} for meter; 'kmp-smsd holds refuse 1'" in now
    site.ok("holds", "refuse", "1", "--by", "eve")
    story, stands, (now,) = told(site, SECOND)
    assert story[-1] == "hold 1 (key K1 for meter) was refused by eve"
    assert [line for line in story if "came again" in line] == []
    assert [line for line in stands if "refused by a person" in line]
    assert now.startswith("key K1 is refused for meter since a person refused hold 1")


def test_hold_is_told_from_its_message_to_its_end(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    for mdn, hour in ((FIRST, 1), (SECOND, 2), (SECOND, 3)):
        site.message(mdn, "K1", at=hour * HOUR)
    site.ok("holds", "refuse", "1", "--by", "eve")
    held = "message by north with key K1 for meter: held (row 12), a person must decide (the key is bound elsewhere)"
    came = [
        f"{held}; hold 1", held, "hold 1 (key K1 for meter) came again, 1 time in all: the key is bound elsewhere",
    ]  # fmt: skip
    assert told(site, SECOND)[0] == [*came, "registered for meter", "hold 1 (key K1 for meter) was refused by eve"]
    site.ok("bindings", "withdraw", FIRST, "meter")
    site.message(SECOND, "K1", at=4 * HOUR)
    story, stands, _ = told(site, SECOND)
    assert "hold 1 (key K1 for meter) was closed" in story  # which eve did not
    assert [line for line in stands if "hold" in line] == []


def test_message_with_which_intake_fails_has_no_row(site):
    site.ready("K1")
    with site.store() as store:
        store.settle([Unfit(outcome=Outcome.ERROR, mdn=FIRST, received_at=HOUR, link="north")], HOUR)
    assert told(site, FIRST)[0][0] == "message by north: error, it alone makes intake fail"


def test_approval_binds_no_key_that_is_suspended_and_explain_says_so(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    site.ok("keys", "suspend", "K1", "--reason", "stolen")
    before = "binds nothing while key K1 is suspended: 'kmp-smsd keys resume K1' before; 'kmp-smsd holds refuse 1'"
    assert f"decide hold 1: 'kmp-smsd holds approve 1' {before}" in told(site, SECOND)[2][0]
    with site.store() as store:
        store.holds.approve(1, "eve")
        store.settle_again(3 * HOUR)
    (hold,) = site.rows("holds", "list")
    assert (hold["state"], hold["last_outcome"]) == ("open", "key_not_usable")
    site.ok("keys", "resume", "K1")
    assert f"binds key K1 for meter and ends its binding to {FIRST} for meter" in told(site, SECOND)[2][0]


@pytest.mark.parametrize(
    ("limit", "day", "at", "binds"),
    [
        ("valid_until", "2001-01-01", HOUR, "nothing, since key K1 is no longer valid ('kmp-smsd keys show K1')"),
        ("valid_from", "2100-01-01", 5_000_000 * HOUR, "nothing until key K1 is valid ('kmp-smsd keys show K1')"),
        ("valid_until", "2100-01-01", HOUR, f"key K1 for meter and ends its binding to {FIRST} for meter"),
        ("valid_from", "2001-01-01", 5_000_000 * HOUR, f"key K1 for meter and ends its binding to {FIRST} for meter"),
    ],
)
def test_approval_binds_a_key_within_its_validity_alone_and_explain_says_so(site, limit, day, at, binds):
    site.ready(mdns=(FIRST, SECOND))
    keys = site.write("limited.csv", f"key_id,key,{limit}\nK1,{1:032x},{day}\n")
    site.ok("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    site.message(FIRST, "K1", at=at)
    site.message(SECOND, "K1", at=at + HOUR)
    assert f"decide hold 1: 'kmp-smsd holds approve 1' binds {binds}; 'kmp-smsd holds" in told(site, SECOND)[2][0]


def test_hold_in_whose_way_another_key_came_is_told_to_be_held_again(site):
    site.ready("K1", "K2", "K3", mdns=(FIRST, SECOND))
    site.message(SECOND, "K1", at=HOUR)
    site.message(FIRST, "K1", at=2 * HOUR)
    site.message(FIRST, "K2", at=3 * HOUR)
    now = told(site, FIRST)[2][0]
    assert "approve 1' has it held again with new evidence, since key K2 is bound here now: approve it once more" in now
    site.message(FIRST, "K1", at=4 * HOUR)
    ends = f"ends its binding to {SECOND} for meter and the binding of key K2 here"
    assert f"binds key K1 for meter and {ends}" in told(site, FIRST)[2][0]


def test_hold_whose_key_went_elsewhere_meanwhile_is_told_to_be_held_again(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    site.ok("registrations", "renumber", FIRST, THIRD, "--yes")
    assert f"held again with new evidence, since key K1 is bound to {THIRD} for meter now" in told(site, SECOND)[2][0]
    site.ok("bindings", "withdraw", THIRD, "meter")
    assert "approve 1' binds key K1 for meter; 'kmp-smsd holds refuse 1'" in told(site, SECOND)[2][0]


def test_approval_that_intake_has_not_decided_is_told_from_one_that_waits_for_a_person(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    with site.store() as store:
        store.holds.approve(1, "eve")
    assert told(site, SECOND)[2] == ["hold 1 is approved and intake has not decided it yet: is intake running?"]


def test_messages_of_one_batch_are_told_in_the_order_in_which_they_came(site):
    site.ready("K1", "K2", "K3")
    came = [SyncRequest(FIRST, key_id, received_at=HOUR, link="north") for key_id in ("K1", "K2", "K3")]
    with site.store() as store:
        store.settle(came, HOUR)
    story = " ".join(told(site, FIRST)[0])
    assert re.findall("message by north with key (K.)", story) == ["K1", "K2", "K3"]


def test_late_message_is_told_with_its_row(site):
    site.ready("K1", "K2")
    site.message(FIRST, "K1", at=2 * HOUR)
    site.message(FIRST, "K2", at=HOUR)
    assert any("held (row 11), it was late" in line for line in told(site, FIRST)[0])


def test_rejected_delivery_is_a_question_to_the_platform(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    settle_due(site, Reject)
    _, stands, (now,) = told(site, FIRST)
    assert [line for line in stands if "platform metering rejected key K1" in line and line.endswith(": no room")]
    assert now == (
        f"ask the administrator of metering why it rejected this: no room; then kmp-smsd outbox retry --mdn {FIRST}"
    )


def test_delivery_that_is_put_off_is_told_with_its_reason_while_the_platform_answers(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    settle_due(site, Postpone)
    _, stands, (now,) = told(site, FIRST)
    assert [line for line in stands if line.endswith("yet after 1 try: the disk is full")]
    assert now.startswith("it is not at platform metering because of this: the disk is full; once that is mended, it")


def test_delivery_that_fails_is_a_matter_for_the_test_of_the_platform(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    settle_due(site, Postpone)
    with site.store() as store:
        store.platforms.report(PlatformState("metering", last_error="no route", last_error_at=3_000_000))
    assert "'kmp-smsd platforms test metering' tells why" in told(site, FIRST)[2][0]


def test_delivery_that_nobody_tried_asks_for_dispatch(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    assert told(site, FIRST)[2][0].endswith("dispatch has not read it: 'kmp-smsd reload', or start it")
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(2_000_000))
    _, stands, now = told(site, FIRST)
    assert [re.sub("version [0-9]+", "version V", line) for line in stands] == [
        "meter: key K1 (KCV 83FF66) is bound",
        "meter: key K1 (version V) is not confirmed by platform metering yet",
    ]
    assert now == [
        "platform metering has not been tried yet: is dispatch running, and not paused? 'kmp-smsd status' tells"
    ]


def test_delivery_to_a_platform_without_a_file_names_the_file(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    settle_due(site, Postpone, "gone")
    assert told(site, FIRST)[2][0].startswith(
        "platform gone has no enabled file in platforms.d: put it back or enable it, then 'kmp-smsd reload'"
    )


def test_app_that_its_platform_s_file_does_not_name_any_more_is_to_be_named_in_a_file(site):
    site.ready("K1", apps=("alarm",))
    site.message(FIRST, "K1")
    with site.store() as store:
        store.routes.set({"alarm": "metering"})
        list(store.routes.move(1))
    assert told(site, FIRST)[2] == ["name the app alarm in a file of platforms.d, then 'kmp-smsd reload'"]
    site.ok("bindings", "withdraw", FIRST, "alarm")  # for which the platform is asked all the same
    untried = "platform metering has not been tried yet: is dispatch running"
    assert told(site, FIRST)[2][0].startswith(untried)
    other = site.platform("other", "other.example")
    other.write_text(other.read_text().replace('"meter", "tracker"', '"alarm"'))
    assert told(site, FIRST)[2][0].startswith(untried)


def test_app_without_a_platform_is_to_be_named_in_a_file(site):
    site.ready("K1", apps=("alarm",))
    site.message(FIRST, "K1")
    _, stands, now = told(site, FIRST)
    assert stands[-1] == "alarm: key K1 waits, since dispatch knows no platform for the app"
    assert now == ["name the app alarm in a file of platforms.d, then 'kmp-smsd reload'"]


def test_withdrawal_is_told_until_the_platform_holds_nothing(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("metering")
    site.ok("bindings", "withdraw", FIRST, "meter")
    waits = told(site, FIRST)[1][-1]
    assert re.fullmatch("meter: the withdrawal .version [0-9]+. is not confirmed by platform metering yet", waits)
    site.deliver("metering")
    _, stands, now = told(site, FIRST)
    assert stands == ["meter: no key is bound", "meter: platform metering has confirmed that it holds nothing"]
    assert now == ["nothing: it is registered, and its terminal's next message is bound"]


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        (("keys", "suspend", "K1"), "key K1 is suspended: 'kmp-smsd keys resume K1' binds it by itself"),
        (("keys", "revoke", "K1", "--yes"), "key K1 is deactivated for good: the terminal needs another key"),
    ],
)
def test_key_that_is_not_usable_is_told_with_its_state(site, command, advice):
    site.ready("K1")
    site.ok(*command)
    site.message(FIRST, "K1")
    assert told(site, FIRST)[2] == [advice]


def test_suspended_key_is_not_delivered(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    settle_due(site, Postpone)
    site.ok("keys", "suspend", "K1")
    assert told(site, FIRST)[2] == ["key K1 is suspended and is not delivered: kmp-smsd keys resume K1"]


def test_ended_binding_is_told_with_its_reason(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.ok("bindings", "withdraw", FIRST, "meter")
    assert "the binding of key K1 for meter ended: withdrawn by command" in told(site, FIRST)[0]


def test_binding_that_another_took_the_place_of_was_moved(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    with site.store() as store:
        store.holds.approve(1, "eve")
        store.settle_again(3 * HOUR)
    assert "the binding of key K1 for meter ended: a later message moved it" in told(site, FIRST)[0]
    assert "hold 1 (key K1 for meter) was approved by eve" in told(site, SECOND)[0]


def test_binding_without_a_message_is_told_too(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.ok("registrations", "renumber", FIRST, SECOND, "--yes")
    story, _, now = told(site, SECOND)
    assert "key K1 for meter was bound" in story
    assert [line for line in now if "no message" in line] == []


def test_replies_are_told_from_their_sending_to_their_end(site):
    numbers = {FIRST: "K1", SECOND: "K2", THIRD: "K3"}
    site.ready(*numbers.values(), mdns=tuple(numbers))
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        for mdn, key in numbers.items():
            store.settle([replace(sync(mdn, key), reply_to=ReplyTo(1, 1, mdn, 0, 1, "10690001"))], NOW)
    said = "the reply for key K1"
    assert f"{said} is waiting" in told(site, FIRST)[1]
    with site.store() as store:
        confirm_all(store)
        first, second, third = (reply.number for reply in store.replies.exchange([], {"north": 10}, NOW))
    assert f"{said} is sending" in told(site, FIRST)[1]
    with site.store() as store:
        ended = [
            ReplyResult(first, ReplyState.SENT, 0),
            ReplyResult(second, ReplyState.REFUSED, 0x0B),
            ReplyResult(third, ReplyState.UNKNOWN),
        ]
        store.replies.exchange(ended, {}, NOW)
    stories, stands, _ = zip(*(told(site, mdn) for mdn in numbers), strict=True)
    assert [line for one in stands for line in one if "reply" in line] == []
    assert [[line for line in story if "reply" in line] for story in stories] == [
        ["the reply for key K1 and meter left by north"],
        [
            "the reply for key K2 and meter left by north",
            "the reply for key K2 and meter ended as refused (command_status 0x0B)",
        ],
        ["the reply for key K3 and meter left by north", "the reply for key K3 and meter ended as unknown"],
    ]


def test_number_that_is_being_erased_says_so(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("metering")
    site.ok("subscribers", "erase", FIRST, "--yes")
    story, stands, (now,) = told(site, FIRST)
    assert story[-1] == "a person had the number erased"
    assert "the number is being erased" in stands
    assert now.startswith("nothing; what the erasure waits for")
    site.deliver("metering")
    with site.store() as store:
        store.erasing.finish()
    assert told(site, FIRST)[1] == ["nothing is known of this number"]


def test_number_outside_the_plan_is_told_as_such(site):
    site.ready("K1")
    done = site.run("explain", "+447700900123")
    assert done.exit_code == 0
    _, _, now = done.stdout.partition("What to do now\n")
    assert now.startswith("  1. +447700900123 is no number of the numbering plan, so its messages end as invalid_mdn")
    assert "registrations add" not in now


def test_page_for_people_tells_past_present_and_future_in_this_order(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=HOUR)
    lines = site.ok("explain", FIRST).splitlines()
    assert [line for line in lines if not line.startswith(" ") and line] == [
        "What happened", "How it stands", "What to do now",
    ]  # fmt: skip
    assert lines[1].startswith("  1970-01-01T01:00:00+00:00  message by north")


def test_search_has_a_bound_that_is_told_and_all_has_none(site, monkeypatch):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K9", at=HOUR)
    for hour in range(2, 8):
        site.message(SECOND, "K9", at=hour * HOUR)
    monkeypatch.setattr(journal, "JOURNAL_STEP", 2)
    monkeypatch.setattr(explain_module, "ENTRIES_MAX", 4)
    done = site.run("explain", FIRST)
    assert "unknown_key" not in done.stdout.partition("How it stands")[0]
    assert "the last 4 entries of the journal were looked through, back to 1970-01-01T04:00:00+00:00" in done.stderr
    assert "3 older ones were not" in done.stderr
    (found,) = site.rows("explain", FIRST)
    assert found["journal"] == {"entries": 4, "total": 7, "since": 4 * HOUR, "whole": False}
    (now,) = found["advice"]
    assert now.startswith("import the key K9")  # which waits, and so was sent
    site.ok("registrations", "add", THIRD, "meter")
    assert told(site, THIRD)[2][0].startswith("no message of it was found: let the terminal send again")
    everything = site.run("explain", FIRST, "--all")
    assert (everything.stderr, "unknown_key" in everything.stdout) == ("", True)


def test_number_whose_hold_stands_has_sent_though_its_message_was_not_found(site, monkeypatch):
    site.ready("K1", mdns=(FIRST, SECOND))
    for hour, mdn in enumerate((FIRST, SECOND, FIRST), 1):
        site.message(mdn, "K1", at=hour * HOUR)
    monkeypatch.setattr(journal, "JOURNAL_STEP", 1)
    monkeypatch.setattr(explain_module, "ENTRIES_MAX", 1)
    (now,) = told(site, SECOND)[2]
    assert now.startswith("decide hold 1: ")


def test_help_tells_both_bounds_of_the_search(site):
    said = " ".join(site.ok("explain", "--help").split())
    assert f"its last {explain_module.ENTRIES_MAX:,} entries" in said
    assert f"{explain_module.STORY_MAX:,} of the number" in said


def test_no_journal_at_all_is_a_whole_search():
    assert number_module.Searched().whole


def test_commands_that_it_names_exist(site):
    """Whatever it advises can be typed as it stands."""
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1", at=HOUR)
    site.message(SECOND, "K1", at=2 * HOUR)
    site.message(SECOND, "K9", at=2 * HOUR)
    settle_due(site, Reject)
    advice = " ".join(sentence for mdn in (FIRST, SECOND, THIRD) for sentence in told(site, mdn)[2])
    named = re.findall(r"kmp-smsd ([a-z][^;':()]*)", advice)
    assert len(named) >= 5
    assert program.name == "kmp-smsd"
    assert [lead(shlex.split(command)) for command in named] == [None] * len(named)
