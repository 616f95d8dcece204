"""Reloads: all of it or nothing, in all roles of the process or in none."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure

from kmp_smsd.control.protocol import Refused
from kmp_smsd.service import commands, dispatch_workers, reloading, thread, wiring
from kmp_smsd.service.counting import COUNT_EVERY_S
from kmp_smsd.service.deciding import DecidingHere
from kmp_smsd.service.link_state import LinkWord
from kmp_smsd.service.reloading import Reloader
from kmp_smsd.service.role import Role
from kmp_smsd.service.summary import summary
from kmp_smsd.service.wiring import make_service
from kmp_smsd.storage import open_store
from tests.config.config_files import PLATFORM
from tests.service.by_hand import PoolByHand, ReactorByHand, SmscByHand, mo
from tests.service.test_wiring import Site
from tests.service.vendor import Vendor, make_due
from tests.storage.stock import import_keys

FLEET = PLATFORM.replace('"meter"', '"tracker"')
SOUTH = """\
[smsc.south]
hosts = ["south.example:2775"]
system_id = "kmp"
password = {{file = "{directory}/smsc-south"}}
"""


@pytest.fixture(scope="module")
def vendor():
    return Vendor()


class At:
    """Both roles in one process, whose threads and connections the test moves."""

    def __init__(self, site, patch, roles=tuple(Role)):
        for module in (dispatch_workers, reloading):
            patch.setattr(module, "ThreadPool", PoolByHand)
        patch.setattr(thread, "OneThread", PoolByHand.one_thread)
        patch.setattr(wiring, "DecidingProcess", lambda path, policy, _: DecidingHere(open_store(path, policy)))
        self.site = site
        self.reactor = ReactorByHand()
        self.service = make_service(site.load(), roles, self.reactor)
        self.roles = {role.role: role for role in self.service}
        self.service.startService()
        self.pools = [self.service.reloader._pool]
        if Role.INTAKE in self.roles:
            intake = self.intake.intake
            self.pools += [one.thread for one in (intake._inbox._thread, intake._thread, intake._deciding_thread)]
        if Role.DISPATCH in self.roles:
            dispatch = self.dispatch
            self.pools += [dispatch.dispatcher.thread.thread, dispatch.dispatcher.workers._pool]
            self.pools += [dispatch.eraser._thread.thread, dispatch.counting._thread.thread]
        self.run()

    @property
    def intake(self):
        return self.roles[Role.INTAKE]

    @property
    def dispatch(self):
        return self.roles[Role.DISPATCH]

    def run(self):
        while any(pool.jobs for pool in self.pools):
            for pool in self.pools:
                pool.run()

    def begin(self):
        """Begin a reload of the files as they are now; what came of it."""
        self.site.load()
        found = []
        self.service.reloader.reload().addCallbacks(found.append, lambda failure: found.append(failure.value))
        self.run()
        return found

    def reload(self):
        (reloaded,) = self.begin()
        assert not isinstance(reloaded, Exception), reloaded
        return list(reloaded.applied), list(reloaded.needs_restart)

    def refused(self):
        self.service.reloader.reload().addErrback(lambda failure: found.append(failure.value))
        found = []
        self.run()
        (error,) = found
        assert isinstance(error, Refused)
        return error.exit_code, str(error).replace(f"{self.site.directory}/", "")

    def unconnected(self, number):
        """Have a try to connect fail, which ends the drain of its link."""
        self.reactor.tcpClients[number][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    def close(self):
        for server in self.service._servers:
            server.close()
        self.reactor.advance(0)  # the turn in which they are closed
        for owner in (service for role in self.service for service in role):
            if (inbox := getattr(owner, "_inbox", None)) is not None:
                inbox._inbox.close()
            if (store := getattr(owner, "_store", None)) is not None:
                store.close()

    def words(self):
        return {link.name: link.state.word for link in self.intake.links}


@pytest.fixture
def site(tmp_path, vendor):
    made = Site(tmp_path)
    made.secret("smsc-north", "secret")
    made.secret("smsc-south", "secret")
    made.secret("master-key", vendor.private)
    made.platform()
    return made


@pytest.fixture
def start(site, monkeypatch):
    made = []

    def started(*roles):
        made.append(At(site, monkeypatch, roles or tuple(Role)))
        return made[-1]

    yield started
    for at in made:
        at.close()


@pytest.fixture
def at(start):
    return start()


def test_the_same_files_change_nothing(at):
    links = at.intake.links
    assert at.reload() == ([], [])
    assert at.intake.links == links
    assert len(at.reactor.tcpClients) == 1


def test_options_of_intake_are_applied_while_its_links_go_on(at):
    links = at.intake.links
    at.site.main += "[sync]\nmdn_burst = 3\n"
    assert at.reload() == (["[sync] mdn_burst"], [])
    assert at.intake.links == links
    assert at.intake.intake._admission._sync.mdn_burst == 3
    assert len(at.reactor.tcpClients) == 1


def test_new_link_starts_and_one_that_is_gone_drains(at):
    at.site.main = SOUTH.format(directory=at.site.directory)
    (reloaded,) = at.begin()
    assert list(reloaded.applied) == ["[smsc.north] gone", "[smsc.south] new"]
    assert at.words() == {"south": LinkWord.CONNECTING}
    assert not reloaded.settled.called
    at.unconnected(0)
    assert reloaded.settled.called
    assert at.intake._leaving == []


def test_changed_link_binds_anew_when_the_old_one_has_drained(at):
    at.site.smsc("in_flight_max = 7\n")
    (reloaded,) = at.begin()
    assert (at.words(), len(at.reactor.tcpClients)) == ({"north": LinkWord.STOPPED}, 1)
    at.unconnected(0)
    assert (at.words(), len(at.reactor.tcpClients)) == ({"north": LinkWord.CONNECTING}, 2)
    assert reloaded.settled.called
    assert at.intake.intake.load("north").in_flight_max == 7
    assert at.intake.intake._admission.terms["north"].link is at.intake.links[0]


def test_password_that_changed_is_used_by_a_new_bind(at):
    at.site.secret("smsc-north", "another")
    (reloaded,) = at.begin()
    assert reloaded.applied == ("the password of [smsc.north]",)
    at.unconnected(0)
    assert (at.words(), len(at.reactor.tcpClients)) == ({"north": LinkWord.CONNECTING}, 2)
    assert at.intake.links[0].password == "another"
    assert at.reload() == ([], [])


def test_password_that_cannot_be_read_any_more_refuses_a_reload_as_it_would_a_start(at):
    (at.site.directory / "smsc-north").unlink()
    code, sentence = at.refused()
    assert (code, "smsc-north: No such file" in sentence) == (77, True)
    assert at.words() == {"north": LinkWord.CONNECTING}


def test_password_file_that_was_emptied_leaves_the_link_as_it_is(at):
    links = at.intake.links
    at.site.secret("smsc-north", "")
    code, told = at.refused()
    assert (code, told.partition(":")[0]) == (77, "the password in smsc-north is empty")
    assert at.intake.links == links
    assert len(at.reactor.tcpClients) == 1


def test_reload_that_comes_while_a_link_drains_waits_for_it(at):
    at.site.smsc("in_flight_max = 7\n")
    at.begin()
    at.site.smsc("in_flight_max = 8\n")
    second = at.begin()
    assert second == []
    at.unconnected(0)
    at.run()
    assert second[0].applied == ("[smsc.north] in_flight_max",)


def test_paused_link_that_changed_is_paused_still(at):
    at.intake.pause("north")
    at.unconnected(0)
    at.site.smsc("in_flight_max = 7\n")
    at.reload()
    assert (at.words(), len(at.reactor.tcpClients)) == ({"north": LinkWord.STOPPED}, 1)
    at.intake.resume("north")
    assert len(at.reactor.tcpClients) == 2


def test_link_that_comes_while_the_role_drains_waits_for_its_end(at):
    at.intake.drain()
    at.unconnected(0)
    at.site.main += SOUTH.format(directory=at.site.directory)
    at.reload()
    assert len(at.reactor.tcpClients) == 1
    at.intake.go_on()
    assert {client[0] for client in at.reactor.tcpClients[1:]} == {"smsc.example", "south.example"}


@pytest.mark.parametrize("gone", [False, True])
def test_a_drain_waits_for_links_that_a_reload_has_drain(at, gone):
    at.site.smsc("in_flight_max = 7\n")
    if gone:
        at.site.main = SOUTH.format(directory=at.site.directory)
    at.begin()
    drained = []
    at.intake.drain().addCallback(drained.append)
    if gone:
        at.unconnected(1)
    assert drained == []
    at.unconnected(0)
    assert len(drained) == 1
    assert set(at.words().values()) == {LinkWord.STOPPED}


def test_a_drain_waits_until_all_that_was_answered_is_settled(at):
    smsc = SmscByHand()
    at.intake.intake.messages(smsc, (mo(),))
    at.intake.intake._inbox._thread.thread.run()
    drained = []
    at.intake.drain().addCallback(drained.append)
    at.unconnected(0)
    assert (smsc.statuses(), drained, at.service.snapshot(at.intake).unsettled) == ([(1, 0)], [], 1)
    at.run()
    assert (len(drained), at.service.snapshot(at.intake).unsettled) == (1, 0)


def test_links_say_how_long_their_end_takes_as_they_are_now(at):
    assert at.service.links_end_within_s == 5.0
    at.site.smsc("unbind_timeout_s = 45.0\n")
    at.begin()
    at.unconnected(0)
    assert at.service.links_end_within_s == 45.0
    at.site.smsc("unbind_timeout_s = 7.0\n")
    at.begin()
    assert at.service.links_end_within_s == 45.0  # the old one drains
    at.unconnected(1)
    assert at.service.links_end_within_s == 7.0


def test_platforms_come_change_and_go(at):
    at.site.platform("fleet", FLEET)
    assert at.reload() == (["platforms.d/fleet.toml new"], [])
    at.site.platform("fleet", FLEET + "window = 7\n")
    assert at.reload() == (["platforms.d/fleet.toml window"], [])
    (at.site.directory / "platforms.d" / "fleet.toml").unlink()
    assert at.reload() == (["platforms.d/fleet.toml gone"], [])
    assert list(at.dispatch.dispatcher.workers.names()) == ["metering"]
    assert [one.name for one in at.service.snapshot(at.dispatch).platforms] == ["metering"]


def test_a_platform_whose_file_was_removed_stays_in_the_status_while_something_is_due_there(at):
    platforms = at.site.directory / "platforms.d"
    with open_store(at.site.database) as store:
        import_keys(store, "KEY-1")
        make_due(store, 1)
    (platforms / "metering.toml").rename(platforms / "metering.off")
    at.reload()
    at.dispatch.counting._not_before = 0.0  # it rests after the first count, by the real clock
    at.reactor.advance(COUNT_EVERY_S)
    at.run()
    (metering,) = at.service.snapshot(at.dispatch).platforms
    assert (metering.name, metering.word, metering.due) == ("metering", "without an enabled file", 1)
    assert metering.apps == ("meter",)
    assert summary([at.service.snapshot(at.dispatch)]).startswith("0 platforms, 1 due; 1 delivery or withdrawal waits")
    (platforms / "metering.off").rename(platforms / "metering.toml")
    at.reload()  # and nothing was counted since
    (metering,) = at.service.snapshot(at.dispatch).platforms
    assert metering.word != "without an enabled file"


def test_dispatch_has_nothing_to_do_where_no_platform_changed(at):
    reconfigure, asked = at.dispatch.dispatcher.reconfigure, []
    at.dispatch.dispatcher.reconfigure = lambda *told: (asked.append(told), reconfigure(*told))[1]
    at.site.main += "[sync]\nmdn_burst = 3\n"
    at.reload()
    assert asked == []
    assert at.dispatch.config.sync.mdn_burst == 3
    at.site.platform("fleet", FLEET)
    at.reload()
    assert len(asked) == 1


def test_what_needs_a_restart_is_told_until_there_is_one(at):
    before = at.intake.config.storage
    at.site.main += "[gateway.data]\nlate_hours = 1\n"
    at.site.secrets["ssh_identity"] = "other"
    assert at.reload() == (["[gateway.data] new"], ["[secrets] ssh_identity"])
    assert at.reload() == ([], ["[secrets] ssh_identity"])
    assert at.service.reloader.status.needs_restart == ("[secrets] ssh_identity",)
    assert at.service.reloader.status.differs
    assert at.intake.config.storage == before
    at.site.secrets["ssh_identity"] = "ssh-identity"
    assert at.reload() == ([], [])


def test_every_fault_is_told_and_nothing_changed(at):
    at.site.load()
    main = at.site.directory / "kmp-smsd.toml"
    main.write_text(main.read_text() + "colour = 1\nin_flight_max = 0\n[sync]\nmdn_burst = 3\n")
    code, sentences = at.refused()
    assert code == 78
    assert "[smsc.north] colour: unknown option" in sentences
    assert sentences.endswith("2 faults, nothing was changed")
    assert at.intake.intake._admission._sync.mdn_burst == 10
    status = at.service.reloader.status
    assert (status.last_reload_ok, status.last_reload_error.count("\n")) == (False, 2)


def test_secret_that_cannot_be_read_refuses_it_for_both_roles(at):
    at.site.main += SOUTH.format(directory=at.site.directory).replace("smsc-south", "nowhere")
    at.site.platform("fleet", FLEET)
    at.site.load()
    code, sentence = at.refused()
    assert (code, "nowhere: No such file" in sentence) == (77, True)
    assert list(at.dispatch.dispatcher.workers.names()) == ["metering"]
    assert at.words() == {"north": LinkWord.CONNECTING}


@pytest.fixture
def credentials(tmp_path, monkeypatch):
    """What the service manager gave to the service at its start, and gives no more."""
    directory = tmp_path / "credentials"
    directory.mkdir()
    (directory / "smsc_north").write_text("secret")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(directory))


@pytest.mark.usefixtures("credentials")
def test_a_link_with_a_credential_of_after_the_start_needs_a_restart_and_holds_up_nothing_else(site, start):
    north = site.main = site.main.replace(f'{{file = "{site.directory}/smsc-north"}}', '{credential = "smsc_north"}')
    at = start(Role.INTAKE)
    south = SOUTH.format(directory=site.directory).replace(f'file = "{site.directory}/smsc-', 'credential = "smsc_')
    site.main = north + south + "[sync]\nmdn_burst = 3\n"
    assert at.reload() == (["[sync] mdn_burst"], ["[smsc.south] new"])
    assert at.words() == {"north": LinkWord.CONNECTING}
    site.main = north.replace("smsc_north", "smsc_other") + "[sync]\nmdn_burst = 4\n"
    assert at.reload() == (["[sync] mdn_burst"], ["[smsc.north] password"])
    assert (at.words(), len(at.reactor.tcpClients)) == ({"north": LinkWord.CONNECTING}, 1)
    site.main = south
    assert at.reload() == (["[sync] mdn_burst"], ["[smsc.north] gone", "[smsc.south] new"])
    assert at.words() == {"north": LinkWord.CONNECTING}


def test_intake_without_any_link_is_refused(at):
    at.site.smsc("enabled = false\n")
    at.site.load()
    assert at.refused() == (78, "kmp-smsd.toml: no [smsc.NAME] section is enabled: intake has nothing to bind to")


def test_a_good_reload_makes_a_refused_one_forgotten(at):
    main = at.site.directory / "kmp-smsd.toml"
    main.write_text("colour = 1\n")
    at.refused()
    at.reload()
    status = at.service.reloader.status
    assert (status.last_reload_ok, status.last_reload_error, status.differs) == (True, None, False)


def test_status_and_log_say_what_is_in_force_since_when_and_what_came_of_the_last_reload(site, monkeypatch, events):
    monkeypatch.setattr(reloading, "ThreadPool", PoolByHand)
    clock = iter((1000.25, 1001.5, 1002.75))  # the start, and two reloads
    monkeypatch.setattr(reloading, "time", SimpleNamespace(time=lambda: next(clock)))
    reloader = Reloader(site.load(), (), ReactorByHand())
    reloader.start()

    def reload():
        reloader.reload().addErrback(lambda _: None)
        reloader._pool.run()

    def told():
        status = reloader.status
        return status.loaded_at, status.last_reload_at, status.last_reload_ok, status.faulty

    assert told() == (1_000_250, None, None, False)
    (site.directory / "kmp-smsd.toml").write_text("colour = 1\n")
    reload()
    assert told() == (1_000_250, 1_001_500, False, True)
    site.load()
    reload()
    assert told() == (1_002_750, 1_002_750, True, False)
    assert [event["event"] for event in events] == ["reload_refused", "reloaded"]
    assert "colour: unknown option" in events[0]["reason"]


def test_each_role_tells_only_what_concerns_it(start):
    at = start(Role.INTAKE)
    at.site.platform("fleet", FLEET)
    at.site.secrets["master_key"] = "other"
    assert at.reload() == ([], [])
    at.site.main += "[sync]\nmdn_burst = 3\n"
    assert at.reload() == (["[sync] mdn_burst"], [])


def test_differences_on_disk_are_seen_without_a_reload(at):
    at.site.main += "[sync]\nmdn_burst = 3\n"
    at.site.load()
    at.reactor.advance(reloading.LOOK_EVERY_S)
    at.run()
    assert at.service.reloader.status.differences == ("[sync] mdn_burst",)
    (at.site.directory / "kmp-smsd.toml").write_text("colour = 1\n")
    at.reactor.advance(reloading.LOOK_EVERY_S)
    at.run()
    assert any("unknown option" in one for one in at.service.reloader.status.differences)


def test_log_levels_fall_back(at):
    at.service.reloader.log_levels.set("smpp", "debug")
    assert at.service.snapshot(at.intake).log_levels == {"smpp": "debug"}
    at.reload()
    assert at.service.snapshot(at.intake).log_levels == {}


# Commands, as the control socket has them done


def commands_of(at, role):
    return commands.Commands(role, at.service.reloader, at.service.snapshot, at.reactor).by_name()


def command(at, role, command, /, **arguments):
    told, found = [], []
    done = Deferred.fromCoroutine(commands_of(at, role)[command](arguments, told.append))
    done.addCallbacks(found.append, lambda failure: found.append(failure.value))
    at.run()
    return found[0] if found else told


def test_status_knows_of_the_files_as_they_are_now(at):
    at.site.main += "[sync]\nmdn_burst = 3\n"
    at.site.load()
    status = command(at, at.intake, "status")
    assert status["configuration"]["differences"] == ("[sync] mdn_burst",)
    assert status["not_ready"] == ("no link is bound",)


REFUSED = "the last reload was refused"


def refusal(at):
    """What the status says of a refused reload, beside what links are like."""
    return [reason for reason in command(at, at.intake, "status")["degraded"] if not reason.startswith("link ")]


def test_a_refused_reload_is_told_while_it_matters(at):
    at.site.secrets["ssh_identity"] = "other"
    at.reload()
    main = at.site.directory / "kmp-smsd.toml"
    good, left = main.read_text(), "needs restart: [secrets] ssh_identity"
    main.write_text("colour = 1\n")
    assert refusal(at) == [left]  # nobody has asked for a reload
    at.refused()
    assert refusal(at) == [f"{REFUSED}: a restart would fail", left]
    main.write_text(good + "[sync]\nmdn_burst = 3\n")
    assert refusal(at) == [REFUSED, left]
    main.write_text("colour = 1\n")
    assert refusal(at) == [f"{REFUSED}: a restart would fail", left]
    main.write_text(good)
    assert refusal(at) == [left]
    main.write_text("colour = 1\n")
    at.refused()
    main.write_text(good + "[sync]\nmdn_burst = 3\n")
    at.service.reloader.reload()
    at.run()
    assert refusal(at) == [left]


def test_a_reload_that_was_refused_for_a_secret_is_told_until_one_succeeds(at):
    (at.site.directory / "smsc-north").unlink()
    at.refused()
    assert refusal(at) == [REFUSED]
    at.site.secret("smsc-north", "secret")
    assert refusal(at) == [REFUSED]
    at.reload()
    assert refusal(at) == []


def test_status_does_not_wait_for_files_that_cannot_be_read_soon(at):
    found = []
    done = Deferred.fromCoroutine(commands_of(at, at.intake)["status"]({}, None))
    done.addCallback(found.append)
    at.reactor.advance(commands.LOOK_WITHIN_S)
    assert found[0]["role"] == "intake"


def test_reload_with_wait_says_so_and_waits(at):
    at.site.smsc("in_flight_max = 7\n")
    at.site.load()
    assert command(at, at.intake, "reload", wait=True) == ["waiting for what has to drain"]
    at.unconnected(0)
    result = command(at, at.intake, "reload")
    assert result == {"roles": ["intake", "dispatch"], "applied": [], "needs_restart": []}


@pytest.mark.parametrize(
    ("role", "name", "arguments", "why", "code"),
    [
        (Role.INTAKE, "pause", {"kind": "smsc", "name": "nroth"}, "did you mean 'north'", 1),
        (Role.DISPATCH, "resume", {"kind": "platform", "name": "x"}, "no platform 'x' runs", 1),
        (Role.INTAKE, "pause", {"kind": "platform", "name": "metering"}, "intake has no such thing", 64),
        (Role.INTAKE, "pause", {"kind": ["smsc"], "name": {}}, "intake has no such thing", 64),
        (Role.INTAKE, "resume", {"name": "north"}, "intake has no such thing", 64),
        (Role.INTAKE, "log-level", {"subsystem": "everything", "level": "debug"}, "a subsystem is one of smpp", 64),
        (Role.INTAKE, "log-level", {"subsystem": [], "level": None}, "a subsystem is one of smpp", 64),
    ],
)
def test_what_makes_no_sense_is_refused(at, role, name, arguments, why, code):
    error = command(at, at.roles[role], name, **arguments)
    assert isinstance(error, Refused)
    assert (why in str(error), error.exit_code) == (True, code)


def test_drain_is_over_when_links_have_unbound(at):
    assert command(at, at.intake, "drain") == ["waiting for what is in flight"]
    assert at.service.snapshot(at.intake).state == "draining"
    assert command(at, at.dispatch, "drain") == {"state": "draining"}
    assert command(at, at.intake, "resume") == {"state": "running"}


def test_pauses_are_shown(at):
    assert command(at, at.intake, "pause", kind="smsc", name="north") == {"kind": "smsc", "name": "north"}
    assert command(at, at.dispatch, "pause", kind="platform", name="metering")["name"] == "metering"
    (north,), (metering,) = at.service.snapshot(at.intake).links, at.service.snapshot(at.dispatch).platforms
    assert (north.paused, metering.paused, metering.word) == (True, True, "paused")


def test_who_stops_is_told_nothing_any_more_but_shown(at):
    at.service.stopService()
    assert command(at, at.intake, "status")["state"] == "stopping"
    for name in ("reload", "drain", "resume", "pause", "log-level"):
        error = command(at, at.intake, name, kind="smsc", name="north")
        assert (str(error), error.exit_code) == ("intake is stopping", 75)
    at.service.reload()
    assert at.service.reloader.status.last_reload_at is None


def test_secrets_of_a_reload_are_read_beside_the_reactor(at, monkeypatch):
    read = []
    monkeypatch.setattr(wiring, "read_password", lambda link: read.append(link) or "secret")
    pool = at.service.reloader._pool
    at.service.reloader.reload()
    pool.run_one()
    assert not read  # by the reactor, which had what came of the first job
    pool.run_one()
    assert len(read) == 1


@pytest.mark.parametrize("jobs", [0, 1])
def test_a_reload_that_the_end_comes_between_is_not_put_in_force(at, jobs):
    at.site.smsc("in_flight_max = 7\n")
    at.site.platform("fleet", FLEET)
    at.site.load()
    found = []
    at.service.reloader.reload().addErrback(lambda failure: found.append(failure.value))
    for _ in range(jobs):
        at.service.reloader._pool.run_one()
    at.service.stopService()
    at.run()
    assert [(str(error), error.exit_code) for error in found] == [("intake is stopping", 75)]
    assert list(at.dispatch.dispatcher.workers.names()) == ["metering"]
    assert at.intake.config.smsc["north"].in_flight_max == 10_000
    assert at.service.reloader.status.last_reload_at is None


def test_a_reload_that_waits_for_another_when_the_end_comes_is_not_begun(at):
    at.site.smsc("in_flight_max = 7\n")
    at.begin()
    at.site.smsc("in_flight_max = 8\n")
    second = at.begin()
    at.service.stopService()
    at.unconnected(0)
    at.run()
    assert [str(error) for error in second] == ["intake is stopping"]
    assert at.intake.config.smsc["north"].in_flight_max == 7
    assert len(at.reactor.tcpClients) == 1
