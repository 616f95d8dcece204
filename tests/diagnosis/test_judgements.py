"""Each judgement of `doctor` on facts: what is good, what is not, and that there is a remedy."""

from __future__ import annotations

import stat
from dataclasses import replace
from itertools import permutations

import pytest

from kmp_smsd.channels.protocol import ChannelDown, NotLetIn, UnfitIdentity, WrongKey
from kmp_smsd.diagnosis.address_filter import FilterFacts, judge_filter
from kmp_smsd.diagnosis.clock import ClockFacts, judge_clock
from kmp_smsd.diagnosis.files import (
    FileFacts,
    judge_database_file,
    judge_ignored,
    judge_shared_directory,
    judge_trusted,
)
from kmp_smsd.diagnosis.finding import Finding, Level, Report, count_of, exit_code, failure, ok, warning
from kmp_smsd.diagnosis.inbox import WAIT_GOOD_MS, judge_inbox
from kmp_smsd.diagnosis.integrity import judge, judge_all
from kmp_smsd.diagnosis.peers import (
    BindFacts,
    HostFacts,
    ProbeFacts,
    is_public,
    judge_bind,
    judge_certificate,
    judge_platform,
    judge_receipt,
    judge_smsc,
)
from kmp_smsd.diagnosis.room import FREE_GOOD, FREE_MIN, LOG_GOOD, RoomFacts, judge_room
from kmp_smsd.diagnosis.sandbox import SandboxFacts, judge_sandbox
from kmp_smsd.diagnosis.secrets import MasterKeyFacts, SecretFacts, judge_master_key, judge_secret
from kmp_smsd.diagnosis.traffic import TrafficFacts, judge_traffic
from kmp_smsd.domain.spans import DAY_MS, HOUR_MS
from kmp_smsd.storage.checking import Checked

OK, WARNING, FAILURE = Level.OK, Level.WARNING, Level.FAILURE
NOW = 1_732_380_000_000


BAD = failure("x", "y")


def levels(findings: list[Finding]) -> list[Level]:
    return [one.level for one in findings]


def told(findings: list[Finding]) -> Finding:
    """The one that is not good, with its remedy."""
    (found,) = [one for one in findings if one.level is not OK]
    assert found.remedy
    return found


def file(mode: int, *, uid: int = 0, gid: int = 7, path: str = "/f") -> FileFacts:
    return FileFacts(path=path, uid=uid, gid=gid, mode=mode, owner=f"user {uid}")


def test_worst_finding_colours_its_report() -> None:
    good, doubtful, bad = ok("a"), warning("d", "e"), failure("b", "c")
    assert {Report("one", order).level for order in permutations((good, doubtful, bad))} == {FAILURE}
    assert {Report("one", order).level for order in permutations((good, doubtful))} == {WARNING}
    assert Report("none").level is OK


def test_findings_are_counted_by_level() -> None:
    assert count_of([Report("a", (ok("a"), warning("b", "c"))), Report("b", (ok("d"),))]) == {
        OK: 2,
        WARNING: 1,
        FAILURE: 0,
    }


@pytest.mark.parametrize(
    ("reports", "code"),
    [
        ([Report("a", (ok("x"),))], 0),
        ([Report("a", (ok("x"),)), Report("b", skipped="why")], 0),
        ([Report("a", (warning("x", "y"),), 69)], 1),
        ([Report("a", (BAD,))], 1),
        ([Report("a", (warning("x", "y"),)), Report("b", (BAD,), 77), Report("c", (BAD,), 69)], 77),
    ],
)
def test_exit_code_is_that_of_the_first_check_that_failed(reports: list[Report], code: int) -> None:
    assert exit_code(reports) == code


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        (file(0o100640), OK),
        (file(0o100644), OK),
        (file(0o100660), FAILURE),
        (file(0o100642), FAILURE),
        (file(0o100640, uid=1000), OK),  # we ourselves
        (file(0o100640, uid=1001), WARNING),
        (FileFacts(path="/f", fault="No such file or directory"), FAILURE),
    ],
)
def test_what_the_daemon_believes_is_changed_by_trusted_users_only(facts: FileFacts, level: Level) -> None:
    found = judge_trusted(facts, {0, 1000}, "configuration")
    assert found.level is level
    assert bool(found.remedy) == (level is not OK)


def test_missing_public_half_is_made_where_the_installation_is_new() -> None:
    missing = FileFacts(path="/f", fault="No such file or directory", is_missing=True)
    closed = FileFacts(path="/f", fault="Permission denied")
    assert judge_trusted(missing, {0}, "public half").remedy.startswith(
        "for a new installation: kmp-smsd master-key create; else give it back"
    )
    assert judge_trusted(closed, {0}, "public half").remedy.startswith("give it back")
    assert judge_trusted(missing, {0}, "configuration").remedy.startswith("give it back")
    for database, advised in ((None, True), ("a", False)):
        (found,) = judge_master_key(MasterKeyFacts(public_fault="/f: No such file", database=database))
        assert ("kmp-smsd master-key create" in found.remedy) is advised
        assert found.remedy.endswith("restore the file from its copy")


@pytest.mark.parametrize(
    ("mode", "gid", "level"),
    [(0o640, 9, OK), (0o644, 0, OK), (0o600, 9, FAILURE), (0o640, 0, FAILURE)],
)
def test_what_the_roles_read_is_readable_by_their_group(mode: int, gid: int, level: Level) -> None:
    """As root we read a file that nobody else can: the role's next start would fail."""
    facts = replace(file(0o100000 | mode), gid=gid)
    assert judge_trusted(facts, {0}, "platform", 9).level is level
    assert judge_trusted(facts, {0}, "platform").level is OK


@pytest.mark.parametrize(
    ("mode", "gid", "level"),
    [(0o2770, 9, OK), (0o2770, 0, FAILURE), (0o2755, 9, FAILURE), (0o770, 9, WARNING)],
)
def test_where_both_roles_write_is_open_to_their_group(mode: int, gid: int, level: Level) -> None:
    facts = replace(file(stat.S_IFDIR | mode), gid=gid)
    found = judge_shared_directory(facts, "state directory", 9)
    assert found.level is level
    assert found.remedy == ("" if level is OK else f"chgrp kmp-smsd {facts.path} && chmod 2770 {facts.path}")


def test_ignored_files_are_named() -> None:
    assert judge_ignored([], "/d").level is OK
    found = judge_ignored(["b.toml~", ".a.toml"], "/d")
    assert (found.level, found.sentence) == (WARNING, "ignored in /d: .a.toml, b.toml~")


@pytest.mark.parametrize(
    ("mode", "level"),
    [(0o2770, OK), (0o700, OK), (0o755, OK), (0o770, WARNING), (0o2777, FAILURE), (0o703, FAILURE)],
)
def test_state_directory_gives_its_group_to_new_files_where_two_users_write(mode: int, level: Level) -> None:
    assert judge_shared_directory(file(stat.S_IFDIR | mode), "state directory").level is level


def test_state_directory_that_is_missing_is_a_failure() -> None:
    assert (
        judge_shared_directory(FileFacts(path="/d", fault="No such file or directory"), "state directory").level
        is FAILURE
    )


@pytest.mark.parametrize(
    ("mode", "gid", "directory", "level"),
    [
        (0o660, 7, 0o2770, OK),
        (0o600, 7, 0o700, OK),
        (0o600, 7, 0o2770, FAILURE),
        (0o660, 8, 0o2770, FAILURE),
        (0o660, 8, 0o700, OK),
        (0o664, 7, 0o2770, FAILURE),
    ],
)
def test_database_is_its_groups_and_closed_to_others(mode: int, gid: int, directory: int, level: Level) -> None:
    assert judge_database_file(file(mode, gid=gid), file(stat.S_IFDIR | directory)).level is level


@pytest.mark.parametrize("mode", [0o2700, 0o2660])
def test_directory_that_is_closed_to_its_group_is_opened_as_one(mode: int) -> None:
    found = judge_database_file(file(stat.S_IFDIR | mode), file(stat.S_IFDIR | 0o2770))
    assert (found.level, found.remedy) == (FAILURE, "chmod 2770 /f")


def test_database_file_that_nobody_could_look_at_is_not_called_good() -> None:
    directory = file(stat.S_IFDIR | 0o700)
    found = judge_database_file(FileFacts(path="/f", fault="Permission denied"), directory)
    assert (found.level, found.sentence) == (FAILURE, "/f: Permission denied")
    found = judge_database_file(FileFacts(path="/f", fault="No such file", is_missing=True), directory)
    assert (found.level, found.sentence) == (WARNING, "/f: No such file")


@pytest.mark.parametrize(
    ("secret", "level"),
    [
        (SecretFacts(option="[secrets] master_key"), OK),
        (SecretFacts(option="[secrets] master_key", fault="/k: Permission denied"), FAILURE),
        (SecretFacts(option="x", loaded_from=file(0o100600)), OK),
        (SecretFacts(option="x", loaded_from=file(0o100640)), FAILURE),
        (SecretFacts(option="x", fault="the password is empty", loaded_from=file(0o100600)), FAILURE),
        (SecretFacts(option="x", loaded_from=file(0o100600, uid=5)), WARNING),
        (SecretFacts(option="x", loaded_from=FileFacts(path="/c", fault="Permission denied")), WARNING),
        (SecretFacts(option="x", loaded_from=FileFacts(path="/c", fault="No such file", is_missing=True)), FAILURE),
        (SecretFacts(option="x", encrypted="/c.cred"), OK),
    ],
)
def test_secret_is_readable_by_whom_it_should_be(secret: SecretFacts, level: Level) -> None:
    assert judge_secret(secret).level is level


def test_directory_in_the_place_of_a_secret_is_called_one() -> None:
    found = judge_secret(SecretFacts(option="x", loaded_from=file(stat.S_IFDIR | 0o755)))
    assert (found.level, found.sentence) == (FAILURE, "x: /f is a directory")


@pytest.mark.parametrize(
    ("option", "sentence", "remedy"),
    [
        ("[smsc.north] password", "the role that needs it does not start", "put it there and restart"),
        ("[secrets] master_key", "the role that needs it does not start", "kmp-smsd master-key create"),
        ("[secrets] ssh_identity", "dispatch cannot log in", "ssh-keygen"),
        ("[channel] identity of fleet", "dispatch cannot log in", "put it there and restart"),
        ("[smsc.identity] password", "the role that needs it does not start", "put it there and restart"),
    ],
)
def test_missing_secret_is_told_with_what_it_stops_and_how_it_is_made(option: str, sentence: str, remedy: str) -> None:
    missing = FileFacts(path="/c", fault="No such file", is_missing=True)
    found = judge_secret(SecretFacts(option=option, loaded_from=missing))
    assert found.sentence == f"{option}: /c: No such file: {sentence}"
    assert remedy in found.remedy
    assert judge_secret(SecretFacts(option=option, fault="/c: No such file")).remedy.startswith(sentence)


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (MasterKeyFacts(), []),
        (MasterKeyFacts(public="a", private="a", database="a"), []),
        (MasterKeyFacts(public="a", private="a"), []),
        (MasterKeyFacts(public="a", database="a"), []),
        (MasterKeyFacts(public="a", private="b", database="a"), ["the private half is b"]),
        (MasterKeyFacts(public="b", private="b", database="a"), ["the public half is b", "the private half is b"]),
        (MasterKeyFacts(public="a", private="b"), ["the halves are of two keys"]),
        (MasterKeyFacts(public_fault="/p: No such file", private="a", database="a"), ["/p: No such file"]),
        (MasterKeyFacts(public="a", private_fault="damaged", database="a"), ["the private half: damaged"]),
    ],
)
def test_halves_and_database_have_one_master_key(facts: MasterKeyFacts, expected: list[str]) -> None:
    found = [one for one in judge_master_key(facts) if one.level is not OK]
    assert len(found) == len(expected)
    assert all(part in one.sentence for part, one in zip(expected, found, strict=True))
    assert all(one.level is FAILURE for one in found)
    assert bool(judge_master_key(facts))


def test_private_half_that_was_not_looked_at_is_not_called_good() -> None:
    (found,) = judge_master_key(MasterKeyFacts(public="a", database="a"))
    assert found.sentence.endswith("the private half was not looked at")
    (found,) = judge_master_key(MasterKeyFacts(public="a", private="a", database="a"))
    assert found.sentence == "master key a: the database's keys are sealed to it"
    (found,) = judge_master_key(MasterKeyFacts(private="a"))
    assert found.sentence == "master key a: no key was imported yet"
    (found,) = judge_master_key(MasterKeyFacts())
    assert found.sentence == "no key was imported yet, and no half of a master key is looked at here"


@pytest.mark.parametrize(
    ("octets", "free", "level"),
    [
        (0, FREE_GOOD, OK),
        (0, FREE_GOOD - 1, WARNING),
        (0, FREE_MIN - 1, FAILURE),
        (FREE_GOOD + 1, FREE_GOOD, WARNING),
    ],
)
def test_disk_has_room_for_what_comes_and_for_a_copy(octets: int, free: int, level: Level) -> None:
    found = judge_room(RoomFacts(path="/d", octets=octets, log_octets=0, free_octets=free))
    assert levels(found) == [level, OK]


@pytest.mark.parametrize(
    ("received_at", "level", "sentence"),
    [
        ([], OK, "no message waits in /d"),
        ([NOW + 1, NOW - WAIT_GOOD_MS], OK, "answered messages wait in /d to be decided: 2, the oldest for 60 s"),
        ([NOW, NOW - WAIT_GOOD_MS - 1], WARNING, "the oldest for 60 s; no SMSC has them any more"),
    ],
)
def test_answered_messages_do_not_wait_for_long(received_at: list[int], level: Level, sentence: str) -> None:
    found = judge_inbox("/d", received_at, NOW)
    assert (found.level, sentence in found.sentence) == (level, True)


def test_log_that_cannot_begin_anew_is_told() -> None:
    facts = RoomFacts(path="/d", octets=0, log_octets=LOG_GOOD + 1, free_octets=FREE_GOOD)
    assert "fuser -v /d" in told(judge_room(facts)).remedy


@pytest.mark.parametrize(
    ("synchronized", "ahead_ms", "expected"),
    [
        (True, 0, [OK, OK]),
        (None, None, [OK, OK]),
        (False, 0, [WARNING, OK]),
        (True, 61_000, [OK, WARNING]),
        (True, 59_000, [OK, OK]),
    ],
)
def test_clock_is_believed_by_the_kernel_and_by_the_journal(
    synchronized: bool | None, ahead_ms: int | None, expected: list[Level]
) -> None:
    last = None if ahead_ms is None else NOW + ahead_ms
    assert levels(judge_clock(ClockFacts(now=NOW, synchronized=synchronized, last_entry_at=last))) == expected


def test_entry_of_the_future_is_told_with_how_far_it_is() -> None:
    found = told(judge_clock(ClockFacts(now=NOW, synchronized=True, last_entry_at=NOW + HOUR_MS)))
    assert found.sentence.startswith("the journal goes on to 3,600 s in the future, 2024-11-23 17:40:00 UTC:")


@pytest.mark.parametrize(("hours_ahead", "expected"), [(0, OK), (1, WARNING)])
def test_entry_of_the_future_is_told_behind_which_others_came(hours_ahead: int, expected: Level) -> None:
    facts = ClockFacts(now=NOW, synchronized=True, last_entry_at=NOW, last_hour=NOW // HOUR_MS + hours_ahead)
    assert levels(judge_clock(facts)) == [OK, expected]


def test_hour_of_the_future_in_which_messages_came_is_told_by_its_end() -> None:
    facts = ClockFacts(now=NOW, synchronized=True, last_entry_at=NOW, last_hour=NOW // HOUR_MS + 2)
    assert "2024-11-23 19:00:00 UTC" in told(judge_clock(facts)).sentence


GOOD = HostFacts(host="a:1", addresses=("10.0.0.1",), connected=True)
REFUSED = HostFacts(host="b:1", addresses=("10.0.0.2",), connect_fault="Connection refused")
UNKNOWN = HostFacts(host="c:1", lookup_fault="Name or service not known")


@pytest.mark.parametrize(
    ("hosts", "expected"),
    [
        ([GOOD], [OK]),
        ([REFUSED], [FAILURE]),
        ([UNKNOWN], [FAILURE]),
        ([GOOD, REFUSED, UNKNOWN], [OK, WARNING, WARNING]),
        ([REFUSED, UNKNOWN], [FAILURE, FAILURE]),
    ],
)
def test_link_works_as_long_as_one_host_does(hosts: list[HostFacts], expected: list[Level]) -> None:
    assert levels(judge_smsc(hosts)) == expected


HERE = HostFacts(host="localhost:1", addresses=("127.0.0.1",), connected=True)


def test_smsc_on_this_machine_is_known_to_be_a_tunnel_that_answers_for_itself() -> None:
    (found,) = judge_smsc([HERE])
    assert "only a bind (--bind) tells" in found.sentence
    closed = HostFacts(host="localhost:1", addresses=("127.0.0.1",), connect_fault="Connection refused")
    assert "tunnel" in told(judge_smsc([closed])).remedy
    assert "tunnel" not in told(judge_smsc([REFUSED])).remedy
    silent = BindFacts(host="localhost:1", how="bind_transceiver", fault="the SMSC closed the connection")
    assert "tunnel" in judge_bind("north", silent, by_credential=False, is_here=HERE.is_here).remedy
    assert "tunnel" not in judge_bind("north", silent, by_credential=False, is_here=GOOD.is_here).remedy


def test_smsc_at_a_public_address_is_warned_of() -> None:
    found = told(judge_smsc([HostFacts(host="a:1", addresses=("8.8.8.8", "10.0.0.1"), connected=True)]))
    assert found.level is WARNING
    assert "(8.8.8.8)" in found.sentence
    assert "stunnel" in found.remedy


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("10.1.1.1", False),
        ("127.0.0.1", False),
        ("2606:4700::1111", True),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
    ],
)
def test_address_of_the_internet_is_told_from_a_private_one(address: str, public: bool) -> None:
    assert is_public(address) == public


@pytest.mark.parametrize(
    ("status", "level", "remedy"),
    [
        (0, OK, ""),
        (0x05, WARNING, "if intake runs"),
        (0x0E, FAILURE, "compare [smsc.north] password"),
        (0x0F, FAILURE, "compare [smsc.north] system_id"),
        (0x0D, FAILURE, "option bind"),
        (0x400, FAILURE, "ask the SMSC's operator"),
        (None, FAILURE, "what it saw of this bind"),
    ],
)
def test_answer_to_a_bind_has_its_remedy(status: int | None, level: Level, remedy: str) -> None:
    facts = BindFacts(host="a:1", how="bind_transceiver", status=status, status_name="X", fault="silence")
    found = judge_bind("north", facts, by_credential=False)
    assert found.level is level
    assert remedy in found.remedy


def test_what_was_mended_for_a_bind_is_taken_over_by_a_reload_but_for_a_credential() -> None:
    def remedy(status: int, *, by_credential: bool) -> str:
        facts = BindFacts(host="a:1", how="bind_transceiver", status=status)
        return judge_bind("north", facts, by_credential=by_credential).remedy

    assert remedy(0x0E, by_credential=False).endswith("issued, then: kmp-smsd reload")
    assert remedy(0x0E, by_credential=True).endswith("issued, then: restart intake")
    assert remedy(0x0F, by_credential=True).endswith("issued, then: kmp-smsd reload")


@pytest.mark.parametrize(
    ("fault", "remedy"),
    [
        (WrongKey("a:22: the host key is not one of host_keys"), "kmp-smsd platforms trust fleet"),
        (NotLetIn("a:22: refused our login"), "authorized_keys"),
        (UnfitIdentity("the SSH identity is encrypted"), "[secrets] ssh_identity"),
        (ChannelDown("a:22: Connection refused"), "kmp-smsd platforms test fleet"),
    ],
)
def test_fault_of_a_platform_has_its_remedy(fault: ChannelDown, remedy: str) -> None:
    found = told(judge_platform("fleet", [ProbeFacts(host="a:22", fault=fault)]))
    assert (found.level, found.sentence) == (FAILURE, str(fault))
    assert remedy in found.remedy


def test_platform_works_as_long_as_one_host_does() -> None:
    probes = [
        ProbeFacts(host="a:22", receiver="kmp-receive 1"),
        ProbeFacts(host="b:22", fault=ChannelDown("b:22: timed out")),
    ]
    assert levels(judge_platform("fleet", probes)) == [OK, WARNING]


@pytest.mark.parametrize(
    ("days", "level", "sentence"),
    [
        (365, OK, "valid for 365 days"),
        (30, OK, "valid for 30 days"),
        (29, WARNING, "valid for 29 days"),
        (0.5, WARNING, "valid for less than a day"),
        (0, FAILURE, "expired less than a day ago"),
        (-0.5, FAILURE, "expired less than a day ago"),
        (-1, FAILURE, "expired 1 day ago"),
    ],
)
def test_certificate_is_told_of_before_it_expires(days: float, level: Level, sentence: str) -> None:
    found = judge_certificate(NOW + int(days * DAY_MS), NOW, by_credential=False)
    assert (found.level, sentence in found.sentence) == (level, True)
    assert (found.level is OK) == (not found.remedy)


def test_new_certificate_needs_a_restart_where_it_is_a_credential() -> None:
    assert "restart dispatch" in judge_certificate(NOW, NOW, by_credential=True).remedy
    assert "restart" not in judge_certificate(NOW, NOW, by_credential=False).remedy


def test_last_receipt_is_told() -> None:
    assert judge_receipt(None, NOW).sentence == "it has confirmed nothing yet"
    assert judge_receipt(NOW - 125_000, NOW).sentence == "its last receipt came 2 minutes ago"
    assert judge_receipt(NOW - 60_000, NOW).sentence == "its last receipt came 1 minute ago"


def platform(name: str = "fleet", **changed: object) -> dict[str, object]:
    row = {
        "platform": name, "apps": [], "due": 0, "oldest_due_at": None, "rejected": 0, "last_error": None,
        "forgotten_at": None,
    }  # fmt: skip
    return row | changed


def test_quiet_traffic_is_good() -> None:
    facts = TrafficFacts(
        now=NOW,
        refused=[{"link": "north", "sender": "86199/13", "count": 9}],
        holds=2,
        oldest_hold_at=NOW - 3 * DAY_MS + 1,
        platforms=[
            platform(due=3, oldest_due_at=NOW - DAY_MS + 1),
            platform("gone", due=3, oldest_due_at=NOW, rejected=1, forgotten_at=NOW),
            platform("away"),
        ],
        configured={"fleet"},
    )
    assert set(levels(judge_traffic(facts))) == {OK}


def test_new_number_range_is_noticed_and_shown_as_an_option() -> None:
    rows = [
        {"link": "north", "sender": "86199/13", "count": 1_200},
        {"link": "north", "sender": "alnum/6", "count": 30},
    ]
    found = told(judge_traffic(TrafficFacts(now=NOW, refused=rows)))
    assert found.sentence.splitlines()[1:] == [
        '86199/13 by north: 1,200 messages, as in {prefix = "86199", digits = 13}',
        "alnum/6 by north: 30 messages",
    ]


def test_no_more_ranges_are_shown_than_a_person_reads() -> None:
    """A forger may make up as many as he likes; fewer than 10 messages of one are slips."""
    rows = [{"link": "north", "sender": f"86{number}/9", "count": 10} for number in range(100, 112)]
    lines = [told(judge_traffic(TrafficFacts(now=NOW, refused=rows[:many]))).sentence.splitlines() for many in (10, 12)]
    assert [len(one) for one in lines] == [1 + 10, 1 + 10 + 1]
    assert lines[0][-1].startswith("86109/9 by north")
    assert lines[1][-1] == "and 2 more classes"


def test_hold_that_waits_for_days_is_told() -> None:
    found = told(judge_traffic(TrafficFacts(now=NOW, holds=4, oldest_hold_at=NOW - 3 * DAY_MS)))
    assert "open holds: 4; the oldest waits for a person since 3 days" in found.sentence


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            platform(due=3, oldest_due_at=NOW - 2 * DAY_MS, last_error="refused"),
            "since 2 days: 3 deliveries wait; its last error: refused",
        ),
        (platform(due=1, oldest_due_at=NOW - DAY_MS), "since 1 day: 1 delivery waits"),
        (platform(rejected=2), "platform fleet rejected 2 deliveries"),
        (platform(rejected=1), "platform fleet rejected 1 delivery"),
        (platform("", due=2, oldest_due_at=NOW), "2 deliveries wait for a platform"),
        (platform("", due=1, oldest_due_at=NOW), "1 delivery waits for a platform"),
        (platform("away", due=2, oldest_due_at=NOW), "2 deliveries and withdrawals wait for platform away, which has"),
        (platform("away", due=1, oldest_due_at=NOW), "1 delivery or withdrawal waits for platform away, which has"),
    ],
)
def test_delivery_that_does_not_arrive_is_told(row: dict[str, object], sentence: str) -> None:
    facts = TrafficFacts(now=NOW, platforms=[row], configured={"fleet"})
    assert sentence in told(judge_traffic(facts)).sentence


def test_app_that_no_file_names_any_more_is_told_where_something_waits() -> None:
    rows = [
        platform("fleet", due=1, oldest_due_at=NOW, apps=["alarm", "tracker"]),
        platform("idle", apps=["old"]),
        platform("disabled", due=1, oldest_due_at=NOW, apps=["other"], forgotten_at=NOW),
    ]
    facts = TrafficFacts(now=NOW, platforms=rows, configured={"fleet", "idle"}, apps={"alarm"})
    assert told(judge_traffic(facts)).sentence == (
        "platform fleet has keys of 1 app that no file names any more, and gets no new ones: tracker"
    )


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("fleet", "kmp-smsd outbox list --platform fleet tells why; then kmp-smsd outbox retry --platform fleet"),
        (
            "away",
            "put its file back into platforms.d, or enable it there, then 'kmp-smsd reload' and kmp-smsd outbox retry"
            " --platform away; where it is gone for good: kmp-smsd platforms forget away",
        ),
    ],
)
def test_nothing_is_offered_again_to_a_platform_without_a_file(name: str, remedy: str) -> None:
    facts = TrafficFacts(now=NOW, platforms=[platform(name, rejected=2)], configured={"fleet"})
    assert told(judge_traffic(facts)).remedy == remedy


def test_app_without_a_platform_needs_no_restart() -> None:
    row = platform("", due=2, oldest_due_at=NOW)
    assert told(judge_traffic(TrafficFacts(now=NOW, platforms=[row]))).remedy.endswith(
        "then 'kmp-smsd reload'; an app that is given up: kmp-smsd registrations remove"
    )


TIGHT = {
    "no_new_privileges": True,
    "seccomp": True,
    "capabilities": 0,
    "can_make_code": False,
    "core_octets": 0,
    "open_files": 65_536,
    "configuration_is_read_only": True,
    "closed": (),
}


def test_tight_sandbox_is_good() -> None:
    assert set(levels(judge_sandbox(SandboxFacts(**TIGHT)))) == {OK}


@pytest.mark.parametrize(
    ("name", "value", "setting"),
    [
        ("no_new_privileges", False, "NoNewPrivileges=yes"),
        ("seccomp", False, "SystemCallFilter="),
        ("capabilities", 0x20, "CapabilityBoundingSet="),
        ("can_make_code", True, "MemoryDenyWriteExecute=yes"),
        ("core_octets", -1, "LimitCORE=0"),
        ("open_files", 1_024, "LimitNOFILE=65536"),
        ("configuration_is_read_only", False, "ProtectSystem=strict"),
        ("closed", ("/run/kmp-smsd",), "/run/kmp-smsd cannot be written: the unit lacks ReadWritePaths="),
    ],
)
def test_what_a_sandbox_lacks_is_named_as_the_unit_writes_it(name: str, value: object, setting: str) -> None:
    assert setting in told(judge_sandbox(SandboxFacts(**{**TIGHT, name: value}))).sentence


@pytest.mark.parametrize(
    "name", ["no_new_privileges", "seccomp", "capabilities", "can_make_code", "configuration_is_read_only"]
)
def test_what_the_kernel_does_not_say_of_a_sandbox_is_told_as_such(name: str) -> None:
    found = judge_sandbox(SandboxFacts(**{**TIGHT, name: None}))
    assert set(levels(found)) == {OK}
    assert [one.sentence.endswith(": the kernel does not say") for one in found].count(True) == 1


def test_damage_untruth_and_leftovers_have_remedies_of_their_own() -> None:
    whole, damaged = Checked("whole_keys", "table keys is whole"), Checked("whole_bindings", "x", None, ("page 7",), 3)
    untrue, staged = Checked("bound_is_wanted", "x", 9, ("a",), 1), Checked("staged", "x", None, ("import 2",), 1)
    good = Checked("bound_is_wanted", "all is wanted", 1_234)
    found = judge_all(iter([whole, damaged, untrue, staged, good, Checked("settled", "all is settled")]))
    assert [(one.level, one.sentence) for one in found] == [
        (OK, "1 tables and their indexes are whole"),
        (FAILURE, "not true that x: page 7; and 2 more"),
        (FAILURE, "not true that x: a"),
        (WARNING, "import 2"),
        (OK, "all is wanted (rows: 1,234)"),
        (OK, "all is settled"),
    ]
    assert [one.remedy.split()[:2] for one in found[1:4]] == [
        ["stop", "both"], ["another", "program"], ["nothing", "is"],
    ]  # fmt: skip
    assert "keys import" in found[3].remedy
    assert judge_all([good]) == [judge(good)]


ANY = ("0.0.0.0/0", "::/0")
HOME = ("127.0.0.0/8", "::1/128")


@pytest.mark.parametrize(
    ("allowed", "denied", "addresses", "level"),
    [
        ((), (), ["192.0.2.1"], OK),
        (HOME, (), ["192.0.2.1"], OK),  # without a list of denied addresses all pass
        (HOME, ANY, ["127.0.0.1", "::1"], OK),
        (HOME, ANY, ["192.0.2.1"], FAILURE),
        (HOME, ANY, ["2001:db8::1"], FAILURE),
        ((*HOME, "192.0.2.0/24"), ANY, ["192.0.2.1", "198.51.100.1"], WARNING),
        (("192.0.2.1/32", "2001:db8::/32"), ANY, ["192.0.2.1", "2001:db8::1"], OK),
        (("192.0.2.7/24",), ANY, ["192.0.2.1"], OK),
        ((), ("192.0.2.0/24",), ["198.51.100.1"], OK),
        ((), ("192.0.2.0/24",), ["192.0.2.1"], FAILURE),
        (HOME, ANY, [], OK),  # a name that leads nowhere is told by who looks it up
    ],
)
def test_unit_lets_its_role_talk_to_its_peers_or_not(allowed, denied, addresses, level):
    facts = FilterFacts(unit="kmp-smsd-intake.service", allowed=allowed, denied=denied)
    found = judge_filter(facts, {"SMSC north: smsc.example": addresses})
    assert [one.level for one in found] == [level]
    assert (level is OK) == (found[0].remedy == "")


def test_addresses_that_do_not_pass_are_named_with_their_owner():
    facts = FilterFacts(unit="kmp-smsd-dispatch.service", allowed=HOME, denied=ANY)
    (found,) = judge_filter(facts, {"platform fleet: keys.example": ["192.0.2.1"], "platform lab: here": ["127.0.0.1"]})
    assert found.sentence == (
        "kmp-smsd-dispatch.service may not talk to 192.0.2.1, which is platform fleet: keys.example"
    )
    assert "kmp-smsd hardening dispatch" in found.remedy
