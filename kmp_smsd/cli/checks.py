"""The checks of doctor: each gathers facts, has them judged, and makes a report of what was found."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.cli.failures import CONFIGURATION, NO_PERMISSION, TEMPORARY, UNAVAILABLE
from kmp_smsd.cli.gathering import files, machine, network, secrets, units
from kmp_smsd.cli.hardening import peers_of, resolve
from kmp_smsd.cli.progress import progress
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.config.faults import ConfigFaults
from kmp_smsd.config.load import PLATFORMS, Config
from kmp_smsd.config.secrets import PasswordUnfit, SecretUnavailable, platform_identity, read_password, read_secret
from kmp_smsd.control.client import NotRunning, ask
from kmp_smsd.control.protocol import PathTooLong, Refused, socket_path
from kmp_smsd.diagnosis.address_filter import judge_filter
from kmp_smsd.diagnosis.clock import ClockFacts, judge_clock
from kmp_smsd.diagnosis.files import judge_database_file, judge_ignored, judge_shared_directory, judge_trusted
from kmp_smsd.diagnosis.finding import Finding, Report, failure, ok, warning
from kmp_smsd.diagnosis.inbox import judge_inbox, judge_unread
from kmp_smsd.diagnosis.integrity import judge_all
from kmp_smsd.diagnosis.peers import judge_bind, judge_certificate, judge_platform, judge_receipt, judge_smsc
from kmp_smsd.diagnosis.roles import judge_role
from kmp_smsd.diagnosis.room import judge_room
from kmp_smsd.diagnosis.sandbox import judge_sandbox
from kmp_smsd.diagnosis.secrets import judge_master_key, judge_secret
from kmp_smsd.diagnosis.traffic import TrafficFacts, judge_traffic
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.spans import DAY_MS, HOUR_MS
from kmp_smsd.storage import Store, StoreError
from kmp_smsd.storage.checking import Checked
from kmp_smsd.storage.inbox_files import directory as inbox_of

ROLE_WITHIN_S = 5.0
# The database: log, index and locks.
BESIDE = ("-wal", "-shm", ".next", ".write", ".moving", ".schema", ".import", ".inbox")


def unreadable(faults: ConfigFaults) -> Report:
    """The configuration, where it has faults: nothing else can be checked then."""
    mend = "do what the sentence says" if faults.forbidden else "mend the file"
    remedy = f"{mend}; 'kmp-smsd check-config' shows this alone. All other checks need it"
    code = NO_PERMISSION if faults.forbidden else CONFIGURATION
    return Report("configuration", (failure(str(faults), remedy),), code)


def configuration(config: Config, *, intake: bool, dispatch: bool) -> Report:
    """What is configured, and what lies in platforms.d unread."""
    directory = config.path.parent / PLATFORMS
    found = [ok(f"{config.path}: SMSCs {_names(config.smsc)}; platforms {_names(config.platforms)}")]
    if intake and not config.smsc:
        found.append(warning("no [smsc.NAME] section is enabled: intake does not start", "add the link to your SMSC"))
    if dispatch and not config.platforms:
        found.append(warning(f"no platform is enabled in {directory}: no key is delivered", "add a file for each"))
    return Report("configuration", (*found, judge_ignored(files.ignored_in(directory), str(directory))), CONFIGURATION)


def _names(named: Iterable[str]) -> str:
    return ", ".join(sorted(named)) or "none"


def permissions(config: Config) -> Report:
    """Owners and modes of what the roles believe, and of where they write."""
    trusted = {0, os.geteuid()}
    believed = [
        ("configuration", config.path),
        ("directory", config.path.parent),
        *(("platform", config.path.parent / PLATFORMS / f"{name}.toml") for name in config.platforms),
        ("public half", config.secrets.public_key),
    ]
    group = files.group_of_roles(config.path)
    found = [judge_trusted(files.look_at(path), trusted, what, group) for what, path in believed]
    path = config.storage.path
    state = files.look_at(path.parent)
    found.append(judge_shared_directory(state, "state directory", group))
    sockets = files.look_at(config.control.directory)
    found.append(judge_shared_directory(sockets, "directory of the control sockets", group))
    beside = [inbox_of(path), *(path.with_name(path.name + suffix) for suffix in BESIDE)]
    # as it is once its own fault is mended
    theirs = state if group is None else replace(state, gid=group, mode=state.mode | stat.S_IRWXG)
    found += [judge_database_file(files.look_at(one), theirs) for one in (path, *filter(os.path.exists, beside))]
    missing = state.is_missing or sockets.is_missing  # for which a role ends with the same
    return Report("permissions", tuple(found), CONFIGURATION if missing else NO_PERMISSION)


def credentials(config: Config, *, intake: bool, dispatch: bool) -> Report:
    """The secrets that the roles read."""
    found = tuple(judge_secret(one) for one in secrets.secrets_of(config, intake=intake, dispatch=dispatch))
    return Report("credentials", found, NO_PERMISSION)


def master_key(config: Config, store: Store, *, dispatch: bool) -> Report:
    """Whether both halves are those of the database's keys."""
    facts = secrets.master_key_of(config, store.master_key(), dispatch=dispatch)
    return Report("master-key", tuple(judge_master_key(facts)), NO_PERMISSION)


def database(config: Config, store: Store) -> Report:
    """Room for the database, and what waits in its inbox."""
    path = config.storage.path
    found = judge_room(machine.room_beside(path))
    try:
        received_at = [message.received_at for message in store.waiting_in_inbox()]
        unread = store.unread_in_inbox()
    except StoreError as error:
        found.append(
            failure(f"the inbox cannot be read: {error}", "mend what the sentence names; intake needs it, too")
        )
    else:
        found.append(judge_inbox(str(inbox_of(path)), received_at, now_ms()))
        found += judge_unread(str(inbox_of(path)), unread)
    return Report("database", tuple(found), TEMPORARY)


def integrity(store: Store) -> Report:
    """All of the database; how far it is is shown where somebody watches. `db check` is this alone."""
    steps = store.checking.steps()
    results: list[Checked] = []
    with progress("Checking the database") as told:
        for checked in store.checking.check():
            results.append(checked)
            if told is not None:
                told(len(results), steps)
    return Report("integrity", tuple(judge_all(results)), CONFIGURATION)


def clock(store: Store) -> Report:
    """The clock, by the kernel's word and by the journal."""
    newest = store.journal.listing(limit=1)
    facts = ClockFacts(
        now=now_ms(),
        synchronized=machine.is_synchronized(),
        last_entry_at=newest[0]["at"] if newest else None,
        last_hour=store.journal.last_hour(),
    )
    return Report("clock", tuple(judge_clock(facts)))


def traffic(config: Config, store: Store) -> Report:
    """What is refused, and what waits."""
    now = now_ms()
    holds = store.explaining.open_holds()
    facts = TrafficFacts(
        now=now,
        refused=store.journal.senders(since_hour=(now - DAY_MS) // HOUR_MS, outcome=Outcome.INVALID_MDN),
        holds=holds.count,
        oldest_hold_at=holds.oldest_at,
        platforms=store.platforms.listing(at_most=sys.maxsize),
        configured=config.platforms.keys(),
        apps={app for one in config.platforms.values() for app in one.apps},
    )
    return Report("traffic", tuple(judge_traffic(facts)))


def role(config: Config, name: str) -> Report:
    """What a running role says of itself."""
    title = f"role {name}"
    try:
        said = ask(socket_path(config.control.directory, name), "status", within_s=ROLE_WITHIN_S)
    except NotRunning as absent:  # before the first start, or on the machine of the other role
        return Report(title, skipped=str(absent))
    except (Refused, PathTooLong) as error:
        code = error.exit_code if isinstance(error, Refused) else CONFIGURATION
        return Report(title, (failure(str(error), f"journalctl -u kmp-smsd-{name}"),), code)
    return Report(title, tuple(judge_role(name, said["not_ready"], said["degraded"])), UNAVAILABLE)


def address_filter(config: Config, *, intake: bool, dispatch: bool) -> Report:
    """Whether the units let the roles talk to their peers."""
    found = []
    for role, wanted in (("intake", intake), ("dispatch", dispatch)):
        if wanted and (facts := units.address_filter(f"kmp-smsd-{role}.service")) is not None:
            peers = {f"{peer.who}: {peer.host}": resolve(peer.host) for peer in peers_of(config, role)}
            found += judge_filter(facts, peers)
    if not found:
        return Report("address-filter", skipped="systemd does not say what the units may talk to")
    return Report("address-filter", tuple(found), UNAVAILABLE)


def smsc(config: Config, name: str, *, binds: bool) -> Report:
    """Whether the SMSC of a link is reached, and with `binds` whether it takes us."""
    link = config.smsc[name]
    hosts = [network.reach(host, link) for host in link.hosts]
    found = judge_smsc(hosts)
    if binds:
        try:
            password = read_password(link.model_copy(update={"password": secrets.here(link.password)}))
        except PasswordUnfit as error:
            found.append(failure(f"no bind is tried: {error}", "mend what the sentence names; intake needs it, too"))
        except SecretUnavailable as error:
            found.append(_not_tried("no bind is tried", error, link.password, "intake's password", "doctor --bind"))
        else:
            by_credential = link.password.credential is not None
            for host, facts in zip(link.hosts, hosts, strict=True):
                if facts.connected:
                    bind = network.try_bind(host, link, password)
                    found.append(judge_bind(name, bind, by_credential=by_credential, is_here=facts.is_here))
    return Report(f"smsc {name}", tuple(found), UNAVAILABLE)


def _not_tried(what: str, error: SecretUnavailable, secret: SecretRef, whose: str, command: str) -> Finding:
    """What needs a `secret` that is not read here; where it lies encrypted, how it is."""
    if in_a_unit := secrets.decrypting(secret):
        remedy = f"run this in a unit that decrypts it:\n{in_a_unit} kmp-smsd {command} --skip sandbox"
        return warning(f"{what}: {whose} lies encrypted on the disk", remedy)
    judgement = warning if secrets.is_closed_to_us(secret) else failure
    as_root = secrets.unless_root("as root, or ")
    return judgement(f"{what}: {error}", f"run this {as_root}where {whose} is read")


def platform(settings: Settings, name: str) -> Report:
    """Whether the hosts of a platform are reached and let us in, and when it last confirmed something."""
    config = settings.config
    channel = config.platforms[name].channel
    identity = platform_identity(channel.identity, config.secrets)
    try:
        secret = read_secret(secrets.here(identity))
    except SecretUnavailable as error:
        found = [_not_tried("no login is tried", error, identity, "dispatch's identity", "doctor")]
    else:
        found = judge_platform(name, network.probe_platform(config, name, lambda _: secret))
        if channel.kind == "tls" and (ends_at := network.certificate_ends_at(secret)) is not None:
            found.append(judge_certificate(ends_at, now_ms(), by_credential=identity.credential is not None))
    with suppress(StoreError, OSError), settings.store() as store:  # what is wrong with it has been told
        found.append(judge_receipt(store.platforms.state(name).last_success_at, now_ms()))
    return Report(f"platform {name}", tuple(found), UNAVAILABLE)


def sandbox(config: Config) -> Report:
    """What the unit that this runs in lets a process do."""
    if not machine.is_in_unit():
        return Report("sandbox", skipped="this does not run in a unit of systemd")
    written = (config.storage.path.parent, config.control.directory)
    return Report("sandbox", tuple(judge_sandbox(machine.sandbox(config.path.parent, written))))
