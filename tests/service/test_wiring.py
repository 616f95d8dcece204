from __future__ import annotations

import time
from contextlib import closing

import pytest
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionRefusedError
from twisted.python.failure import Failure

from kmp_smsd.channels import opening
from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.config.load import load
from kmp_smsd.config.secrets import SecretUnavailable
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.spans import DAY_MS
from kmp_smsd.service import dispatch_workers as workers_module
from kmp_smsd.service import notify, thread, wiring
from kmp_smsd.service import reloading as reloading_module
from kmp_smsd.service.dispatch_role import DispatchRole
from kmp_smsd.service.intake_role import IntakeRole, NothingToDo
from kmp_smsd.service.role import Role
from kmp_smsd.service.wiring import make_service
from kmp_smsd.storage import StoreUnusable, open_store
from kmp_smsd.storage.locks import SchemaLock
from kmp_smsd.storage.received import Received
from kmp_smsd.vault import master_key
from kmp_smsd.vault.master_key import MasterKeyFileFault, WrongMasterKey
from tests.config.config_files import PLATFORM, Files
from tests.service.by_hand import PoolByHand, ReactorByHand, SmscByHand, finished, mo
from tests.service.vendor import Vendor, mdn
from tests.storage.fresh import new_database
from tests.storage.stock import register, routes_of, sync

SECRETS = """\
[storage]
path = "kmp.db"
[control]
directory = "control"
[secrets]
public_key = "master-key.pub"
"""
NUMBERING = """\
[numbering]
country_code = "86"
ranges = [{prefix = "8613", digits = 13, name = "mobile"}]
"""


class Site:
    """The files of an installation. What is not written is missing, as for a user who may not read it."""

    def __init__(self, directory):
        self.files = Files(directory)
        self.directory = directory
        self.reactor = ReactorByHand()
        self.database = directory / "kmp.db"
        new_database(self.database)
        (directory / "control").mkdir()
        self.secrets = {"master_key": "master-key", "ssh_identity": "ssh-identity"}
        self.storage = self.main = ""
        self.smsc()

    def smsc(self, options=""):
        self.main = f"""\
[smsc.north]
hosts = ["smsc.example:2775"]
system_id = "kmp"
password = {{file = "{self.directory}/smsc-north"}}
{options}"""

    def platform(self, name="metering", text=PLATFORM):
        self.files.write(f"platforms.d/{name}.toml", text)

    def secret(self, name, content):
        self.files.write(name, content)

    def load(self):
        secrets = "".join(f'{name} = {{file = "{self.directory}/{file}"}}\n' for name, file in self.secrets.items())
        storage = SECRETS.replace("[storage]\n", f"[storage]\n{self.storage}")
        self.files.write("kmp-smsd.toml", storage + secrets + NUMBERING + self.main)
        return load(self.directory / "kmp-smsd.toml")

    def make(self, *roles):
        return make_service(self.load(), roles, self.reactor)


@pytest.fixture(scope="module")
def vendor():
    return Vendor()


@pytest.fixture
def site(tmp_path):
    return Site(tmp_path)


@pytest.fixture
def made(site, monkeypatch):
    """Makes services and closes what they opened."""
    opened = []

    def open_and_keep(*args, **keywords):
        opened.append(open_store(*args, **keywords))
        return opened[-1]

    monkeypatch.setattr(wiring, "open_store", open_and_keep)
    yield site.make
    for store in opened:
        store.close()


# Roles and their secrets


def test_intake_touches_neither_the_master_key_nor_an_ssh_key(site, made):
    site.secret("smsc-north", "secret")
    site.platform()
    (role,) = made(Role.INTAKE)
    assert isinstance(role, IntakeRole)
    assert [one._sessions[0].bind.password for one in role.links] == ["secret"]


def test_dispatch_touches_no_password_of_an_smsc(site, made, vendor):
    site.secret("master-key", vendor.private)
    site.platform()
    (role,) = made(Role.DISPATCH)
    assert isinstance(role, DispatchRole)


def test_dispatch_begins_without_an_ssh_key_since_it_may_be_mended_while_it_runs(site, made, vendor):
    site.secret("master-key", vendor.private)
    site.platform()
    (role,) = made(Role.DISPATCH)
    (worker,) = role.dispatcher.workers._workers.values()
    with pytest.raises(ChannelDown, match="ssh-identity"):
        worker.deliverer._open_channel(Cancel())


def test_both_roles_may_share_a_process(site, made, vendor):
    site.secret("smsc-north", "secret")
    site.secret("master-key", vendor.private)
    assert [type(role) for role in made(Role.INTAKE, Role.DISPATCH)] == [IntakeRole, DispatchRole]


def test_unreadable_password_stops_intake(made):
    with pytest.raises(SecretUnavailable, match="smsc-north"):
        made(Role.INTAKE)


def test_link_that_is_not_enabled_needs_no_password(site, made):
    site.secret("smsc-north", "secret")
    site.main += '[smsc.south]\nenabled = false\nhosts = ["h:1"]\nsystem_id = "k"\npassword = {file = "/nowhere"}\n'
    (role,) = made(Role.INTAKE)
    assert [one.name for one in role.links] == ["north"]


def test_unreadable_master_key_stops_dispatch(made):
    with pytest.raises(SecretUnavailable, match="master-key"):
        made(Role.DISPATCH)


def test_dispatch_without_a_master_key_in_the_configuration_says_what_is_missing(site, made):
    del site.secrets["master_key"]
    with pytest.raises(SecretUnavailable, match=r"\[secrets\] master_key is missing"):
        made(Role.DISPATCH)


def test_public_half_is_no_master_key_for_dispatch(site, made):
    site.secret("master-key", master_key.create()[1])
    with pytest.raises(MasterKeyFileFault, match="public half"):
        made(Role.DISPATCH)


def test_wrong_private_half_is_refused_and_the_database_let_go(site, vendor):
    with open_store(site.database) as store:
        vendor.import_into(store, ("KEY-1", None))
    other = Vendor()
    site.secret("master-key", other.private)
    with pytest.raises(WrongMasterKey) as caught:
        site.make(Role.DISPATCH)
    assert vendor.master_key.fingerprint in str(caught.value)
    assert other.master_key.fingerprint in str(caught.value)
    with closing(SchemaLock(site.database, exclusive=True)):
        pass


def test_intake_refuses_another_installations_database_and_lets_it_go(site, vendor):
    with open_store(site.database) as store:
        vendor.import_into(store, ("KEY-1", None))
    site.secret("smsc-north", "secret")
    private, public = master_key.create()
    site.secret("master-key.pub", public)
    with pytest.raises(StoreUnusable, match=r"or restore this installation's backup") as caught:
        site.make(Role.INTAKE)
    assert vendor.master_key.fingerprint in str(caught.value)
    assert master_key.MasterKey.parse(private, "").fingerprint in str(caught.value)
    with closing(SchemaLock(site.database, exclusive=True)):
        pass


@pytest.mark.parametrize("imported", [False, True])
def test_intake_takes_its_own_database_and_one_without_keys(site, made, vendor, imported):
    with open_store(site.database) as store:
        if imported:
            vendor.import_into(store, ("KEY-1", None))
    site.secret("smsc-north", "secret")
    site.secret("master-key.pub", vendor.public if imported else master_key.create()[1])
    made(Role.INTAKE)


def test_intake_says_that_the_public_half_is_damaged(site, made):
    site.secret("smsc-north", "secret")
    site.secret("master-key.pub", "nothing")
    with pytest.raises(MasterKeyFileFault, match=r"master-key\.pub"):
        made(Role.INTAKE)


def test_right_private_half_is_taken(site, made, vendor):
    with open_store(site.database) as store:
        vendor.import_into(store, ("KEY-1", None))
    site.secret("master-key", vendor.private)
    made(Role.DISPATCH)


def test_intake_without_an_smsc_says_so(site, made):
    site.main = ""
    with pytest.raises(NothingToDo, match=r"no \[smsc.NAME\]"):
        made(Role.INTAKE)


def test_dispatch_needs_no_smsc(site, made, vendor):
    site.main = ""
    site.secret("master-key", vendor.private)
    assert len(list(made(Role.DISPATCH))) == 1


@pytest.mark.parametrize("role", list(Role))
def test_missing_database_is_never_made(site, vendor, role):
    site.secret("smsc-north", "secret")
    site.secret("master-key", vendor.private)
    site.database.unlink()
    with pytest.raises(StoreUnusable):
        site.make(role)
    assert not site.database.exists()


# What each part is told


def test_intake_decides_by_the_policy_of_the_configuration(site, made):
    site.secret("smsc-north", "secret")
    site.main += '[sync]\non_sim_change = "refused"\nbatch_max = 7\n'
    (role,) = made(Role.INTAKE)
    store = role.intake._store
    Vendor().import_into(store, ("KEY-1", None))
    register(store, mdn(1), "meter")
    register(store, mdn(2), "meter")
    deciding = role.intake._deciding
    with closing(deciding):
        batch = [Received.of("run", 1, [sync(mdn(1), "KEY-1"), sync(mdn(2), "KEY-1")])]
        assert deciding.settle(batch, 0) == [Outcome.BOUND, Outcome.REFUSED]
    assert role.intake._batch_max == 7


def test_what_is_old_goes_as_the_configuration_says(site, made):
    site.secret("smsc-north", "secret")
    site.storage = "journal_days = 3\n"
    site.main += "[sync]\nlate_hours = 24\nremember_days = 2\n"
    (role,) = made(Role.INTAKE)
    housekeeping = role.intake._housekeeping
    assert (housekeeping._storage, housekeeping._late_ms) == (role.config.storage, 3 * DAY_MS)


def test_pair_has_a_transmitter_that_its_replies_leave_by(site, made):
    site.secret("smsc-north", "secret")
    site.smsc('bind = "pair"\nreply = "confirmed"')
    (role,) = made(Role.INTAKE)
    receiver, transmitter = role.links
    assert (receiver.name, transmitter.name) == ("north", "north (transmitter)")
    assert receiver._transmitter_of_pair is transmitter
    assert role.intake._replier._terms["north"].link is receiver


def test_every_platform_has_a_deliverer_and_its_apps_lead_to_it(site, made, vendor, monkeypatch):
    told = {}

    class Told:
        def __init__(self, name, preparer, _open_channel, _open_store, patience):
            told[name] = (preparer, patience)

    monkeypatch.setattr(wiring, "Deliverer", Told)
    site.secret("master-key", vendor.private)
    site.platform("metering", "retry_min_s = 7.5\nretry_max_s = 75.0\n" + PLATFORM + "window = 30\n")
    site.platform("fleet", PLATFORM.replace('["meter"]', '["tracker", "alarm"]').replace("keys.", "fleet."))
    site.platform("off", "enabled = false\n" + PLATFORM.replace('["meter"]', '["off"]'))
    (role,) = made(Role.DISPATCH)
    assert role.dispatcher._routes == {"meter": "metering", "tracker": "fleet", "alarm": "fleet"}
    assert set(told) == {"metering", "fleet"}
    preparer, patience = told["metering"]
    assert (preparer._platform, preparer._apps) == ("metering", {"meter"})
    assert (patience.retry_min_s, patience.retry_max_s) == (7.5, 75.0)
    assert 0 <= patience.jitter() <= 1
    assert told["fleet"][0]._apps == {"tracker", "alarm"}


@pytest.mark.parametrize("own", [False, True])
def test_platform_is_reached_with_its_own_identity_or_the_common_one(site, made, vendor, monkeypatch, own):
    def opened(options, credentials, _name, _cancel, clock, _sent):
        assert abs(clock() - time.time()) < 60
        return credentials(options.identity)

    monkeypatch.setattr(opening, "open_channel", opened)
    site.secret("master-key", vendor.private)
    site.secret("ssh-identity", "common")
    site.secret("of-its-own", "its own")
    site.platform(text=PLATFORM + (f'identity = {{file = "{site.directory}/of-its-own"}}\n' if own else ""))
    (role,) = made(Role.DISPATCH)
    (worker,) = role.dispatcher.workers._workers.values()
    assert worker.deliverer._open_channel(Cancel()) == (b"its own" if own else b"common")


def test_keys_sent_to_a_platform_are_known_when_it_is_connected_with_again(site, made, vendor, monkeypatch):
    monkeypatch.setattr(opening, "open_channel", lambda *given: given[-1])
    site.secret("master-key", vendor.private)
    site.platform()
    (role,) = made(Role.DISPATCH)
    (worker,) = role.dispatcher.workers._workers.values()
    worker.deliverer._open_channel(Cancel()).append(b"a key")
    assert list(worker.deliverer._open_channel(Cancel())) == [b"a key"]


# Starting and stopping


class Stage(Service):
    """A part that notes when it is asked to end, and ends when the test says so."""

    def __init__(self, name, told):
        self.name_here, self.told, self.ended = name, told, Deferred()

    def attach(self, one):
        self.told.append(f"attach {one.name_here}")

    def drain(self):
        self.told.append(f"drain {self.name_here}")
        return self.ended

    def finish(self):
        self.told.append(f"finish {self.name_here}")
        return self.ended


def test_links_end_before_intake_does(site):
    told = []
    site.main += site.main.replace("north", "south")
    intake, north, south = Stage("intake", told), Stage("north", told), Stage("south", told)
    stages = {"north": [north], "south": [south]}
    role = IntakeRole(site.load(), intake, lambda name, _: stages[name], ReactorByHand())
    ended = []
    role.stopService().addCallback(ended.append)
    north.ended.callback(None)
    assert told == ["attach north", "attach south", "drain north", "drain south"]
    south.ended.callback(None)
    assert told[4:] == ["finish intake"]
    assert ended == []
    intake.ended.callback(None)
    assert ended == [None]


def test_dispatch_ends_when_its_workers_have(site):
    told, ended = [], []
    dispatcher, eraser, counting = Stage("dispatch", told), Stage("erasing", told), Stage("counting", told)
    role = DispatchRole(site.load(), dispatcher, eraser, counting, None, ReactorByHand())
    role.stopService().addCallback(ended.append)
    dispatcher.ended.callback(None)
    assert (told, ended) == (["finish dispatch", "finish erasing", "finish counting"], [])
    eraser.ended.callback(None)
    counting.ended.callback(None)
    assert ended == [None]


def test_whole_service_starts_takes_a_message_and_stops(site, vendor, monkeypatch):
    monkeypatch.setattr(thread, "OneThread", PoolByHand.one_thread)
    monkeypatch.setattr(workers_module, "ThreadPool", PoolByHand)
    monkeypatch.setattr(reloading_module, "ThreadPool", PoolByHand)
    site.secret("smsc-north", "secret")
    site.secret("master-key", vendor.private)
    site.platform()
    reactor = ReactorByHand()
    service = make_service(site.load(), list(Role), reactor)
    intake, dispatch = service
    pools = [
        intake.intake._inbox._thread.thread,
        intake.intake._thread.thread,
        intake.intake._deciding_thread.thread,
        dispatch.dispatcher.thread.thread,
        dispatch.dispatcher.workers._pool,
        dispatch.eraser._thread.thread,
    ]
    pools += [dispatch.counting._thread.thread, service.reloader._pool]
    service.startService()
    assert reactor.tcpClients[0][:2] == ("smsc.example", 2775)
    smsc = SmscByHand()
    intake.intake.messages(smsc, (mo(),))
    for pool in pools:
        pool.run()
    assert smsc.statuses() == [(1, 0)]
    with open_store(site.database) as store:
        assert routes_of(store) == {"meter": "metering"}
    ended = []

    async def stop():
        ended.append([succeeded for succeeded, _ in await service.stopService()])

    async def link_ends():
        reactor.tcpClients[0][2].clientConnectionFailed(None, Failure(ConnectionRefusedError()))

    finished(stop(), *pools)
    assert ended == []
    finished(link_ends(), *pools)
    reactor.advance(0)  # the turn in which the control sockets are closed
    assert ended == [[True, True]]
    assert [pool.stopped for pool in pools] == [True] * len(pools)


def test_service_manager_hears_when_all_has_started_and_before_anything_stops(site, made, monkeypatch):
    monkeypatch.setattr(reloading_module, "ThreadPool", PoolByHand)
    site.secret("smsc-north", "secret")
    service = made(Role.INTAKE)
    (role,) = service
    order = []
    monkeypatch.setattr(notify, "notify", lambda *assignments: order.append(assignments[0]))
    monkeypatch.setattr(role, "startService", lambda: order.append("starts"))
    monkeypatch.setattr(role, "stopService", lambda: order.append("stops"))
    service.startService()
    service.stopService()
    site.reactor.advance(0)  # the turn in which its control socket is closed
    assert order == ["starts", "READY=1", "STATUS=0 of 1 links bound; link north is stopped", "STOPPING=1", "stops"]
