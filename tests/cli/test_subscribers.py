"""Erasing numbers and forgetting platforms on the command line."""

from __future__ import annotations

import threading
from contextlib import closing

from kmp_smsd.cli import platforms
from kmp_smsd.storage.inbox import DAMAGED, Inbox
from kmp_smsd.storage.inbox_files import directory
from tests.cli.site import FIRST, SECOND
from tests.storage.stock import NOW, sync


def test_number_is_shown_erased_and_shown_no_more(site):
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1")
    site.message(FIRST, "K2")
    assert site.deliver("metering") == 1
    (shown,) = site.rows("subscribers", "show", FIRST)
    assert (shown["mdn"], shown["registered"], shown["holds"]) == (FIRST, ["meter"], 1)
    assert shown["bound"] == [{"app_id": "meter", "key_id": "K1"}]
    assert "meter to K1" in site.ok("subscribers", "show", FIRST)
    assert site.ok("subscribers", "show", FIRST).split()[-2:] == ["unconfirmed", "-"]
    question = (
        f"{FIRST} loses 1 registration, 1 binding, 1 hold and 0 waiting requests; the number itself is erased once its"
        " platforms have confirmed that."
    )
    assert site.ok("subscribers", "erase", FIRST, "--dry-run") == f"{question}\n"
    assert site.refused("subscribers", "erase", FIRST)[0] == 64
    assert site.rows("subscribers", "show", FIRST) == [shown]

    told = site.ok("subscribers", "erase", FIRST, "--yes")
    assert told.startswith(f"{FIRST} meter: waits for platform metering\n")
    assert "--now does not wait" in told
    assert site.ok("subscribers", "erase", FIRST) == told  # nothing is asked any more
    assert "meter waiting at metering" in site.ok("subscribers", "show", FIRST)
    code, sentence = site.refused("registrations", "add", FIRST, "meter")
    assert (code, f"{FIRST} is being erased" in sentence) == (1, True)
    done = site.run("registrations", "import", str(site.write("more.csv", f"mdn,app_id\n{FIRST},meter\n")))
    assert (done.exit_code, "is being erased" in done.stderr) == (1, True)

    assert site.deliver("metering") == 1
    assert site.ok("subscribers", "erase", FIRST) == f"{FIRST} is erased\n"  # dispatch would have done it
    assert site.refused("subscribers", "show", FIRST) == (1, f"nothing is known of {FIRST}")
    assert site.ok("subscribers", "erase", FIRST).startswith(f"nothing is known of {FIRST}")
    assert {row["mdn"] for row in site.rows("journal", "list")} == {None}
    assert "-" in site.ok("journal", "list")
    assert [row["mdn"] for row in site.rows("holds", "list", "--all")] == [None]


def test_when_a_number_was_last_heard_is_shown_only_where_it_is_kept(site):
    site.ready("K1")
    site.message(FIRST, "K1", at=1_000_000)
    site.message(SECOND, "K1", at=2_000_000)
    assert [site.rows("subscribers", "show", mdn)[0]["last_heard_at"] for mdn in (FIRST, SECOND)] == [None, 2_000_000]


def test_number_is_not_erased_in_front_of_its_messages(site):
    """What was answered and is not decided yet would bring it back."""
    site.ready("K1", mdns=(FIRST, SECOND))
    with site.store() as store, closing(Inbox(site.database, store.settled)) as inbox:
        received = inbox.append([sync(SECOND, "K1"), sync(FIRST, "K1"), sync(FIRST, "K2")])
        told = f"{FIRST} has 2 messages that intake has not decided yet: see that it runs, and erase the number then"
        assert site.refused("subscribers", "erase", FIRST, "--yes") == (75, told)
        store.settle(received.messages, NOW, received.last)
    site.ok("subscribers", "erase", FIRST, "--now", "--yes")


def test_number_is_not_erased_where_a_message_comes_while_the_person_thinks(site, monkeypatch):
    site.ready("K1")
    with site.store() as store, closing(Inbox(site.database, store.settled)) as inbox:
        monkeypatch.setattr("kmp_smsd.cli.subscribers.confirm", lambda *_, **__: inbox.append([sync(FIRST, "K1")]))
        assert site.refused("subscribers", "erase", FIRST)[0] == 75
    assert site.rows("subscribers", "show", FIRST)[0]["erasing_at"] is None


def test_hold_whose_evidence_was_erased_says_so(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1")
    site.message(SECOND, "K1")
    assert site.ok("subscribers", "erase", FIRST, "--yes") == f"{FIRST} is erased\n"
    assert "(an erased number) meter since 1970-" in site.ok("holds", "list")


def test_erased_at_once_tells_who_may_still_hold_the_key(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("metering")
    told = site.ok("subscribers", "erase", FIRST, "--now", "--yes")
    assert told.startswith(f"{FIRST} is erased\n")
    assert "platform metering has not confirmed meter: it may still hold the key" in told
    assert site.rows("outbox", "list", "--all") == []


def test_erasure_that_waits_for_a_platform_in_no_file_tells_the_remedy(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("gone")
    told = site.ok("subscribers", "erase", FIRST, "--yes")
    assert "platform gone is in no file, 'kmp-smsd platforms forget gone' gives it up" in told
    file = site.platform("gone", "gone.example")
    file.write_text(f"enabled = false\n{file.read_text().replace('meter', 'other').replace('tracker', 'more')}")
    told = site.ok("subscribers", "erase", FIRST)
    assert "meter: the file of platform gone is disabled: enable it, then 'kmp-smsd reload'; where" in told
    assert "remove the file, then 'kmp-smsd platforms forget gone' gives it up" in told


def test_number_that_may_be_in_the_files_still_is_told(site, monkeypatch):
    site.ready("K1", "K2")
    with monkeypatch.context() as patch:
        patch.setattr("kmp_smsd.storage.scrubbing.Scrubber.scrub", lambda *_: False)
        assert "may still be in the files of the database" in site.ok("subscribers", "erase", FIRST, "--yes")
        assert "may still be in the files of the database" in site.ok("subscribers", "erase", FIRST)
    site.ok("subscribers", "erase", FIRST, "--dry-run")
    assert to_be_cleared(site)
    gone = f"nothing is known of {FIRST}: it was erased, or never heard of\n"
    assert site.ok("subscribers", "erase", FIRST) == gone
    assert not to_be_cleared(site)


def to_be_cleared(site):
    with site.store() as store:
        return store._database.rows("SELECT erase_log FROM store")[0][0]


def test_number_that_is_in_a_file_of_the_inbox_still_is_told(site):
    """Where intake was killed before it removed a file of which all is settled, or people are to look into it."""
    site.ready("K1")
    with site.store() as store, closing(Inbox(site.database, store.settled)) as inbox:
        received = inbox.append([sync(FIRST, "K1")])
        store.settle(received.messages, NOW, received.last)
        (file,) = directory(site.database).iterdir()
        told = f"kmp-smsd: the number is still in {file}: intake removes it soon, if it runs\n"
        assert site.ok("subscribers", "erase", FIRST, "--now", "--yes").endswith(told)
        assert site.ok("subscribers", "erase", SECOND).endswith("never heard of\n")
        kept = file.with_name(file.name + DAMAGED)
        kept.hardlink_to(file)
        inbox.forget(1)
        told = f"kmp-smsd: the number is still in {kept}: remove it when nobody needs it\n"
        assert site.ok("subscribers", "erase", FIRST).endswith(f"never heard of\n{told}")


# Platforms


def test_platform_is_forgotten_by_dispatch(site, monkeypatch):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("old")
    code, sentence = site.refused("platforms", "forget", "metering", "--yes")
    assert (code, "platforms.d/metering.toml still names it" in sentence) == (1, True)
    for unknown in ("never-heard-of", ""):  # keys that wait for a platform are nobody's to forget
        code, sentence = site.refused("platforms", "forget", unknown, "--yes")
        assert (code, sentence.startswith(f"nothing is known of platform '{unknown}'")) == (1, True)
    waits = "1 key wanted there waits for another platform, 0 withdrawals will never reach it."
    assert site.ok("platforms", "forget", "old", "--dry-run") == f"old will be forgotten: {waits}\n"
    code, sentence = site.refused("platforms", "forget", "old", "--yes", "--wait", "0")
    assert (code, "the wish is kept" in sentence) == (69, True)
    assert "to be forgotten" in site.ok("platforms", "list")

    def dispatch():
        with site.store() as store:
            assert store.platforms.to_forget(()) == ["old"]
            sum(store.routes.forget(["old"], 3_000_000))

    doing, wait = threading.Thread(target=dispatch), platforms._await_forgotten

    def begin_and_wait(*arguments):  # before the command has looked, nothing would be known of it any more
        doing.start()
        return wait(*arguments)

    monkeypatch.setattr(platforms, "_await_forgotten", begin_and_wait)
    assert site.ok("platforms", "forget", "old", "--yes") == "old is forgotten\n"
    doing.join()
    assert "old" not in {row["platform"] for row in site.rows("platforms", "list")}
    assert "(none yet)" in site.ok("bindings", "list")
