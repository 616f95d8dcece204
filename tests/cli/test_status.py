"""Status for people and for monitoring, from roles that are made up."""

from __future__ import annotations

import functools
import json
import os
import pty
import signal
import socket
import threading
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from kmp_smsd.cli.doctor import CHECKS
from kmp_smsd.cli.program import program
from kmp_smsd.cli.roles import control_directory
from kmp_smsd.cli.settings import Settings
from kmp_smsd.cli.status import MORE, fitting, judged
from kmp_smsd.cli.status_text import ago, ahead, octets, text
from kmp_smsd.control.client import RoleAway
from kmp_smsd.control.protocol import Done, NotDone, Request
from tests.cli.site import until

NOW = 1_732_380_000_000
LINK = {
    "name": "north", "word": "bound as receiver", "bound": True, "paused": False, "since": NOW - 7_200_000,
    "peer": "192.0.2.1:2775", "last_received_at": NOW - 1000, "last_sent_at": NOW - 2000, "last_message_at": None,
    "enquire_rtt_s": 0.0123, "binds": 1, "bind_failures": {}, "reconnects": 2, "messages": 1234567,
    "answers": {"ESME_ROK": 1234567}, "rates": {"1m": 1.5, "5m": 1.25, "15m": 0.0}, "in_flight": 5,
    "in_flight_max": 10000, "throttled": 3, "bad_pdus": 0, "last_error": "", "last_error_at": None,
    "next_try_at": None,
}  # fmt: skip
PLATFORM = {
    "name": "metering", "word": "waiting", "paused": False, "since": NOW - 90_000, "apps": ["meter"], "due": 100_000,
    "due_more": True, "oldest_due_at": NOW - 3 * 86_400_000, "rejected": 2, "rejected_more": True, "confirmed": 10,
    "rejections": 2, "postponed": 0, "failures": 1, "rates": {"1m": 0.0, "5m": 0.0, "15m": 0.0},
    "push_s": {"count": 4, "sum": 0.5}, "last_success_at": None, "last_error": "x" * 100,
    "last_error_at": NOW - 5000, "next_try_at": NOW + 30_000,
}  # fmt: skip
HEAD = {
    "v": 1, "pid": 7, "version": "0.1.0", "started_at": NOW - 7_200_000, "state": "running",
    "configuration": {
        "path": "/etc/f.toml", "loaded_at": NOW, "differs": False, "differences": [], "last_reload_at": None,
        "last_reload_ok": None, "last_reload_error": None, "needs_restart": [],
    },
    "store": {
        "path": "/var/db", "schema": 6, "octets": 5_000_000, "log_octets": 900, "journal_head": 12_345,
        "read_at": NOW, "last_write_at": NOW - 3000, "last_write_s": 0.0042, "stuck_s": 0.0, "silent_s": 0.0,
        "error": None,
    },
    "reactor_lag_s": 0.0, "log_levels": {}, "not_ready": [], "degraded": [],
}  # fmt: skip
INTAKE = {**HEAD, "role": "intake", "links": [LINK], "outcomes": {"bound": 3, "malformed": 2000}, "unsettled": 1200}
DISPATCH = {**HEAD, "role": "dispatch", "platforms": [PLATFORM]}


def lines(snapshot):
    return [line.rstrip() for line in text(snapshot, NOW).splitlines()]


def test_a_link_is_one_line():
    *head, empty, titles, row = lines(INTAKE)
    assert head[0] == "intake: running for 2 h (kmp-smsd 0.1.0, PID 7)"
    assert "  outcomes       malformed 2,000, bound 3" in head
    assert "  unsettled      1,200 messages, answered and in the inbox" in head
    assert "    last write 3 s ago, took 4.2 ms" in head
    assert empty == ""
    assert titles.split()[:5] == ["link", "state", "peer", "in", "out"]
    assert " ".join(row.split()) == (
        "north bound as receiver 2 h 192.0.2.1:2775 1 s 2 s - 12.3 ms 1,234,567 1.5 1.25 0 5/10,000 3 2 - -"
    )


def test_for_how_long_a_role_drains_is_not_claimed():
    assert lines({**INTAKE, "state": "draining"})[0] == "intake: draining, started 2 h ago (kmp-smsd 0.1.0, PID 7)"


def test_a_link_that_waits_tells_when_it_tries_again():
    waiting = {**LINK, "next_try_at": NOW + 30_000, "last_error": "no connection", "last_error_at": NOW}
    assert " ".join(lines({**INTAKE, "links": [waiting]})[-1].split()).endswith(" in 30 s no connection (0 s ago)")


def test_a_role_from_before_an_upgrade_that_tells_of_no_next_try_is_shown():
    older = {name: value for name, value in LINK.items() if name != "next_try_at"}
    assert lines({**INTAKE, "links": [older]}) == lines(INTAKE | {"links": [LINK]})


def test_a_platform_is_one_line_and_a_long_error_is_cut():
    row = " ".join(lines(DISPATCH)[-1].split())
    assert row == f"metering waiting 90 s 100,000+ 3 d 2+ 10 0 0 0 125 ms - in 30 s {'x' * 57}... (5 s ago)"


def test_what_a_person_has_to_see_stands_out():
    configuration = {
        **HEAD["configuration"], "last_reload_ok": False, "last_reload_at": NOW,
        "last_reload_error": "f:1: no\n1 fault", "needs_restart": ["[storage] path"],
        "differences": ["[storage] path", "[sync] mdn_burst"],
    }  # fmt: skip
    store = {**HEAD["store"], "error": "disk full", "stuck_s": 12.0}
    said = lines(
        {
            **INTAKE,
            "configuration": configuration,
            "store": store,
            "not_ready": ["no link is bound"],
            "degraded": ["link north is waiting"],
            "log_levels": {"smpp": "debug"},
        }
    )
    for line in (
        "  NOT READY: no link is bound",
        "  degraded: link north is waiting",
        "      f:1: no",
        "    needs restart: [storage] path",
        "      [sync] mdn_burst",
        "    unavailable: disk full",
        "    a thread of it has been busy for 12 s",
        "  log level      smpp at debug, until the next reload",
    ):
        assert line in said
    assert "      [storage] path" not in said


def test_files_that_are_still_as_they_were_refused_are_told_once():
    configuration = {
        **HEAD["configuration"], "last_reload_ok": False, "last_reload_at": NOW, "differs": True,
        "last_reload_error": "f:1: no\n1 fault", "differences": ["f:1: no", "1 fault"],
    }  # fmt: skip
    assert [line.strip() for line in lines({**INTAKE, "configuration": configuration})].count("f:1: no") == 1


def test_nothing_that_a_peer_says_moves_the_terminal():
    said = text({**INTAKE, "links": [{**LINK, "last_error": "\x1b[2Jgone", "last_error_at": NOW}]}, NOW)
    assert "\x1b" not in said
    assert r"\x1b[2Jgone" in said


@pytest.mark.parametrize(
    ("milliseconds", "words"),
    [(0, "0 s"), (119_999, "119 s"), (120_000, "2 min"), (7_200_000, "2 h"), (172_800_000, "2 d"), (-5, "0 s")],
)
def test_ages_have_one_unit(milliseconds, words):
    assert ago(NOW - milliseconds, NOW) == words
    assert ago(None, NOW) == "-"


def test_times_to_come_and_sizes():
    assert (ahead(NOW + 5000, NOW), ahead(NOW - 1, NOW)) == ("in 5 s", "now")
    assert [octets(one) for one in (0, 1023, 1536, 5 * 1024**3)] == ["0 octets", "1023 octets", "1.5 KiB", "5.0 GiB"]


@pytest.mark.parametrize(
    ("intake", "dispatch", "expected"),
    [
        ({}, {}, (0, "OK: intake and dispatch")),
        ({"degraded": ["a", "b"]}, {}, (1, "WARNING: intake: a; intake: b")),
        ({"degraded": ["a"]}, {"not_ready": ["c"]}, (2, "CRITICAL: dispatch: c; intake: a")),
        ({}, RoleAway("dispatch does not run"), (2, "CRITICAL: dispatch does not run")),
    ],
)
def test_monitoring_gets_one_line_and_what_nagios_expects(intake, dispatch, expected):
    found = dispatch if isinstance(dispatch, RoleAway) else {**DISPATCH, **dispatch}
    assert judged({"intake": {**INTAKE, **intake}, "dispatch": found}) == expected


# Where the sockets are


@pytest.mark.parametrize(
    ("content", "directory"),
    [
        ("", "/run/kmp-smsd"),
        ('[control]\ndirectory = "run"\n', "run"),
        ('[control]\ndirectory = "/elsewhere"\n', "/elsewhere"),
        ("[control]\ndirectory = 7\n", "/run/kmp-smsd"),
        ("control = 7\n", "/run/kmp-smsd"),
        ('[sync]\ndirectory = "no"\n[control] # here\n"directory" = "run"\nfoo = bar\n', "run"),
        ("[control]\n[sync]\ndirectory = 'no'\nfoo = bar\n", "/run/kmp-smsd"),
    ],
)
def test_the_directory_is_found_in_a_file_that_is_faulty_too(tmp_path, content, directory):
    (tmp_path / "kmp-smsd.toml").write_text(content)
    assert control_directory(Settings(tmp_path / "kmp-smsd.toml")) == tmp_path / directory


@pytest.fixture
def usual(tmp_path, monkeypatch):
    """The default path, at which no file is."""
    (option,) = (option for option in program.params if option.name == "path")
    monkeypatch.setattr(option, "default", tmp_path / "none.toml")
    return str(option.default)


@pytest.mark.usefixtures("usual")
def test_without_a_file_it_is_the_usual_one_where_nobody_named_another():
    done = CliRunner().invoke(program, ["status"])
    assert (done.exit_code, "nobody listens at /run/kmp-smsd/intake.sock" in done.stderr) == (69, True)


@pytest.mark.parametrize("by_variable", [False, True])
def test_the_usual_file_that_somebody_named_and_is_none_is_told(usual, by_variable):
    words, env = ([], {"KMP_SMSD_CONFIG": usual}) if by_variable else (["--config", usual], {})
    done = CliRunner(env=env).invoke(program, [*words, "status"])
    assert done.exit_code == 78
    assert done.stderr.startswith(f"kmp-smsd: {usual}: No such file or directory")


@pytest.mark.parametrize("words", [["status"], ["status", "--check"], ["top"], ["reload"], ["drain"], ["resume"]])
@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("none.toml", "No such file or directory"),
        ("none/kmp-smsd.toml", "No such file or directory"),
        ("kmp-smsd.toml/kmp-smsd.toml", "Not a directory"),
        ("control", "Is a directory"),
    ],
)
def test_a_file_that_was_named_and_is_none_is_told_instead_of_a_role_that_is_away(site, words, name, fault):
    site.config = site.directory / name
    assert site.refused(*words) == (
        78,
        f"{name}: {fault}: name the configuration file with --config or KMP_SMSD_CONFIG",
    )


def test_the_directory_is_the_usual_one_where_the_file_is_no_text(tmp_path):
    (tmp_path / "kmp-smsd.toml").write_bytes(b"\x7fELF\xff")
    assert control_directory(Settings(tmp_path / "kmp-smsd.toml")) == Path("/run/kmp-smsd")


# Commands


class Roles:
    """Roles that answer each command as the test says, and keep what they were asked."""

    def __init__(self, directory):
        self.directory = directory
        self.asked = []
        self._listeners = []

    def serve(self, role, **answers):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / f"{role}.sock"))
        listener.listen()
        self._listeners.append(listener)
        threading.Thread(target=self._serve, args=(role, listener, answers), daemon=True).start()

    def _serve(self, role, listener, answers):
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with closing(connection):
                request = Request.decode(connection.makefile("rb").readline())
                self.asked.append((role, request.command, dict(request.arguments)))
                connection.sendall(answers[request.command.replace("-", "_")].encode())

    def close(self):
        for listener in self._listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()


@pytest.fixture
def roles(site):
    with closing(Roles(site.directory / "control")) as made:
        yield made


RELOADED = Done({"roles": ["intake"], "applied": ["[sync] mdn_burst"], "needs_restart": ["[storage] path"]})
UNCHANGED = Done({"roles": ["dispatch"], "applied": [], "needs_restart": []})
REFUSED = NotDone("f:1: [sync] x: no\n1 fault, nothing was changed", 78)


def doctored(site):
    """The exit code of doctor's look at the roles, and each one's findings, or why it was not looked at."""
    words = [word for check in CHECKS if check != "roles" for word in ("--skip", check)]
    done = site.run("doctor", *words, "--json")
    reports = [json.loads(line) for line in done.stdout.splitlines()]
    found = {one["check"]: one["skipped"] or [(a["level"], a["sentence"]) for a in one["findings"]] for one in reports}
    return done.exit_code, found


def test_doctor_tells_what_running_roles_say_of_themselves(site, roles):
    site.ready()
    refused = "link north is waiting to reconnect: bind_transceiver was refused with ESME_RINVPASWD (0x0E)"
    roles.serve("intake", status=Done({**INTAKE, "not_ready": ["no link is bound"], "degraded": [refused]}))
    assert doctored(site) == (
        69,
        {
            "role intake": [("failure", "no link is bound"), ("warning", refused)],
            "role dispatch": f"dispatch does not run: nobody listens at {site.directory}/control/dispatch.sock",
        },
    )


@pytest.mark.parametrize(
    ("answer", "level", "code"),
    [
        (Done(DISPATCH), "ok", 0),
        (Done({**DISPATCH, "degraded": ["platform metering is paused"]}), "warning", 1),
        (NotDone("it ends", 75), "failure", 75),
    ],
)
def test_doctor_judges_a_role_by_what_it_says(site, roles, answer, level, code):
    site.ready()
    roles.serve("dispatch", status=answer)
    assert (doctored(site)[0], doctored(site)[1]["role dispatch"][0][0]) == (code, level)


def test_status_is_asked_of_both_roles(site, roles):
    roles.serve("intake", status=Done(INTAKE))
    roles.serve("dispatch", status=Done(DISPATCH))
    assert [row["role"] for row in site.rows("status")] == ["intake", "dispatch"]
    assert site.ok("status").count("(kmp-smsd 0.1.0, PID 7)") == 2
    assert [json.loads(line)["role"] for line in site.ok("status", "--json", "--role", "dispatch").splitlines()] == [
        "dispatch"
    ]


def test_a_role_that_is_away_is_told_and_the_other_one_shown(site, roles):
    roles.serve("intake", status=Done(INTAKE))
    done = site.run("status")
    assert (done.exit_code, "dispatch does not run" in done.stderr, "north" in done.stdout) == (0, True, True)
    assert site.run("status", "--check").exit_code == 2
    code, told = site.refused("status", "--check", "--json")
    assert (code, "choose one of them" in told) == (64, True)
    assert site.run("status", "--check", "--role", "intake").exit_code == 0


def test_no_role_at_all_is_69(site):
    code, sentence = site.refused("status")
    assert code == 69
    assert sentence == (
        "intake does not run: nobody listens at control/intake.sock; "
        "dispatch does not run: nobody listens at control/dispatch.sock"
    )
    assert [site.run(*words).exit_code for words in (["top"], ["reload"], ["drain"], ["resume"])] == [69] * 4
    assert site.refused("pause", "smsc", "lab")[0] == 69


def test_reload_tells_what_was_applied_and_what_was_not(site, roles):
    roles.serve("intake", reload=RELOADED)
    roles.serve("dispatch", reload=UNCHANGED)
    assert site.ok("reload", "--wait") == (
        "intake: applied: [sync] mdn_burst\nintake: needs restart: [storage] path\n"
        "dispatch: applied: nothing; credentials are those of the start\n"
    )
    assert roles.asked == [("intake", "reload", {"wait": True}), ("dispatch", "reload", {"wait": True})]


def test_one_process_with_both_roles_is_asked_once(site, roles):
    roles.serve("intake", reload=Done({**RELOADED.result, "roles": ["intake", "dispatch"]}))
    roles.serve("dispatch", reload=UNCHANGED)
    assert site.ok("reload").startswith("intake and dispatch: applied: [sync] mdn_burst\n")
    assert [role for role, *_ in roles.asked] == ["intake"]


def test_reload_asks_the_roles_that_run_here(site, roles):
    roles.serve("dispatch", reload=UNCHANGED)
    assert site.ok("reload") == "dispatch: applied: nothing; credentials are those of the start\n"
    assert site.run("reload", "--role", "intake").exit_code == 69


def test_what_both_roles_refuse_is_told_once(site, roles):
    roles.serve("intake", reload=REFUSED)
    roles.serve("dispatch", reload=REFUSED)
    done = site.run("reload")
    assert (done.exit_code, done.stdout) == (78, "")
    assert done.stderr == "f:1: [sync] x: no\n1 fault, nothing was changed\n"


def test_one_role_may_refuse_what_the_other_one_does(site, roles):
    roles.serve("intake", reload=NotDone("/p: No such file", 77))
    roles.serve("dispatch", reload=UNCHANGED)
    done = site.run("reload")
    assert (done.exit_code, done.stdout) == (77, "dispatch: applied: nothing; credentials are those of the start\n")
    assert done.stderr == "kmp-smsd: /p: No such file\n"


def test_pauses_go_to_the_role_that_they_concern(site, roles):
    roles.serve("intake", pause=Done(), resume=Done(), log_level=Done())
    roles.serve("dispatch", pause=Done(), resume=Done({"state": "running"}), log_level=Done())
    assert site.ok("pause", "smsc", "north") == "smsc north: paused\n"
    assert site.ok("pause", "platform", "metering") == "platform metering: paused\n"
    assert site.ok("resume", "smsc", "north") == "smsc north: resumed\n"
    assert site.ok("resume", "--role", "dispatch") == "dispatch: running\n"
    assert "dispatch: channels at debug" in site.ok("log-level", "channels", "debug")
    assert [(role, command) for role, command, _ in roles.asked] == [
        ("intake", "pause"),
        ("dispatch", "pause"),
        ("intake", "resume"),
        ("dispatch", "resume"),
        ("intake", "log-level"),
        ("dispatch", "log-level"),
    ]


@pytest.mark.parametrize(
    "words", [["resume", "smsc"], ["pause", "smsc"], ["pause", "both", "x"], ["log-level", "all", "loud"]]
)
def test_half_a_sentence_is_64(site, words):
    assert site.refused(*words)[0] == 64


@contextmanager
def terminal(site, *words, **env):
    """A command on a terminal of its own; what it has shown so far."""
    ours, theirs = pty.openpty()
    heeds_sigint = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # even if we run in the background
    env = {**os.environ, "TERM": "xterm", **env}
    process = site.process(*words, stdout=theirs, env=env, preexec_fn=heeds_sigint)
    os.close(theirs)
    shown = bytearray()

    def read():
        while True:
            try:
                shown.extend(os.read(ours, 65_536))
            except OSError:
                return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield process, shown
    finally:
        process.kill()
        process.communicate()
        reader.join()
        os.close(ours)


def test_top_shows_the_status_again_and_again_on_a_terminal(site, roles):
    roles.serve("intake", status=Done(INTAKE))
    with terminal(site, "top", "--every", "0.2", "--role", "intake") as (process, shown):
        until(lambda: shown.count(b"\x1b[H") >= 3)
        assert shown.count(b"intake: running for ") >= 2
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("lines", "columns", "rows", "fits"),
    [
        (["a", "", "b", ""], 40, 4, 4),
        (["a", "", "b", ""], 40, 3, 2),
        (["x" * 81, "b", ""], 40, 5, 3),
        (["x" * 81, "b", ""], 40, 4, 1),
        (["x" * 81, "b", ""], 40, 3, 0),
        (["x" * 80, ""], 40, 3, 2),
    ],
)
def test_what_top_shows_never_scrolls_the_screen(lines, columns, rows, fits):
    assert fitting(lines, columns, rows) == (lines if fits == len(lines) else [*lines[:fits], MORE])


def test_top_leaves_out_what_the_screen_does_not_hold(site, roles):
    roles.serve("intake", status=Done(INTAKE))
    with terminal(site, "top", "--every", "0.2", "--role", "intake", LINES="3", COLUMNS="200") as (_, shown):
        until(lambda: shown.count(b"\x1b[H") >= 2)
        assert (MORE.encode() in shown, b"192.0.2.1:2775" in shown) == (True, False)


def test_top_is_plain_where_nobody_watches(site, roles):
    roles.serve("intake", status=Done(INTAKE))
    assert "\x1b" not in site.ok("top", "--role", "intake")
