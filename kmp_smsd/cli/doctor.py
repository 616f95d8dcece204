"""``kmp-smsd doctor``: everything that can be checked from here, in a fixed order, each fault with its remedy."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli.arguments import json_option
from kmp_smsd.cli.failures import CONFIGURATION, NO_PERMISSION, TEMPORARY, UNAVAILABLE, explain
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.cli.standard_output import check_heard

if TYPE_CHECKING:
    from kmp_smsd.config.faults import ConfigFaults
    from kmp_smsd.config.load import Config
    from kmp_smsd.diagnosis.finding import Report
    from kmp_smsd.storage import Store

#: In the order in which they are made: what stands first is what others depend on.
CHECKS = (
    "configuration",
    "permissions",
    "credentials",
    "master-key",
    "database",
    "integrity",
    "clock",
    "traffic",
    "address-filter",
    "smsc",
    "platforms",
    "sandbox",
)
ROLES = ("both", "intake", "dispatch")
PLATFORMS_AT_ONCE = 16
# The database: log, index and locks.
BESIDE = ("-wal", "-shm", ".next", ".write", ".moving", ".schema", ".import", ".inbox")


@click.command()
@click.option("--bind", "binds", is_flag=True, help="Also bind to every SMSC, and unbind: see below.")
@click.option("--skip", "skipped", type=click.Choice(CHECKS), multiple=True, help="Leave out a check; may be repeated.")
@click.option(
    "--role",
    type=click.Choice(ROLES),
    default="both",
    show_default=True,
    help="Only what this role needs, in its unit.",
)
@json_option
@click.pass_obj
def doctor(settings: Settings, binds: bool, skipped: tuple[str, ...], role: str, as_json: bool) -> None:
    """Check everything that can be checked from here, and say what to do.

    That is configuration, files, secrets, database, clock, the units' address filters, SMSCs, platforms and the
    sandbox, in a fixed order.
    Nothing is changed and no key is sent; the roles may run. An SMSC that allows one bind only may refuse that of
    --bind, or end intake's. `integrity` reads the whole database: leave it out where that takes too long.

    Exits 0 where all is good, 1 where there are warnings only, else with the code of the first check that failed: 78
    configuration or database, 77 a secret, key or permission, 75 no room, 69 a peer.
    """
    from kmp_smsd.cli import findings
    from kmp_smsd.diagnosis.finding import exit_code

    reports = []
    for report in _reports(settings, frozenset(CHECKS) - set(skipped), role, binds=binds):
        reports.append(report)
        if as_json:
            click.echo(findings.as_json(report))
        else:
            findings.show(report)
        check_heard()  # the checks that are left may take long
    if not as_json:
        findings.show_count(reports)
    raise click.exceptions.Exit(exit_code(reports))


def _reports(settings: Settings, wanted: frozenset[str], role: str, *, binds: bool) -> Iterator[Report]:
    from concurrent.futures import ThreadPoolExecutor

    from kmp_smsd.config.faults import ConfigFaults

    try:
        config = settings.config
    except ConfigFaults as faults:
        yield _faulty(faults)
        return
    intake, dispatch = role != "dispatch", role != "intake"
    if "configuration" in wanted:
        yield _configuration(config, intake=intake, dispatch=dispatch)
    if "permissions" in wanted:
        yield _permissions(config)
    if "credentials" in wanted:
        yield _credentials(config, intake=intake, dispatch=dispatch)
    yield from _database(settings, config, wanted, dispatch=dispatch)
    if "address-filter" in wanted:
        yield _address_filter(config, intake=intake, dispatch=dispatch)
    if "smsc" in wanted and intake:
        for name in config.smsc:
            yield _smsc(config, name, binds=binds)
    if "platforms" in wanted and dispatch:
        # One that hangs takes its whole time to connect: the others do not wait for it.
        with ThreadPoolExecutor(PLATFORMS_AT_ONCE) as pool:
            yield from pool.map(partial(_platform, settings, config), config.platforms)
    if "sandbox" in wanted:
        yield _sandbox()


def _faulty(faults: ConfigFaults) -> Report:
    from kmp_smsd.diagnosis.finding import Report, failure

    remedy = "mend the file; 'kmp-smsd check-config' shows this alone. All other checks need it"
    code = NO_PERMISSION if faults.forbidden else CONFIGURATION
    return Report("configuration", (failure(str(faults), remedy),), code)


def _configuration(config: Config, *, intake: bool, dispatch: bool) -> Report:
    from kmp_smsd.cli.gathering.files import ignored_in
    from kmp_smsd.config.load import PLATFORMS
    from kmp_smsd.diagnosis.files import judge_ignored
    from kmp_smsd.diagnosis.finding import Report, ok, warning

    directory = config.path.parent / PLATFORMS
    found = [ok(f"{config.path}: SMSCs {_names(config.smsc)}; platforms {_names(config.platforms)}")]
    if intake and not config.smsc:
        found.append(warning("no [smsc.NAME] section is enabled: intake does not start", "add the link to your SMSC"))
    if dispatch and not config.platforms:
        found.append(warning(f"no platform is enabled in {directory}: no key is delivered", "add a file for each"))
    return Report("configuration", (*found, judge_ignored(ignored_in(directory), str(directory))), CONFIGURATION)


def _names(named: Any) -> str:
    return ", ".join(sorted(named)) or "none"


def _permissions(config: Config) -> Report:
    from kmp_smsd.cli.gathering.files import group_of_roles, look_at
    from kmp_smsd.config.load import PLATFORMS
    from kmp_smsd.diagnosis.files import judge_database_file, judge_shared_directory, judge_trusted
    from kmp_smsd.diagnosis.finding import Report
    from kmp_smsd.storage.inbox_files import directory

    trusted = {0, os.geteuid()}
    files = [
        ("configuration", config.path),
        ("directory", config.path.parent),
        *(("platform", config.path.parent / PLATFORMS / f"{name}.toml") for name in config.platforms),
        ("public half", config.secrets.public_key),
    ]
    group = group_of_roles(config.path)
    found = [judge_trusted(look_at(path), trusted, what, group) for what, path in files]
    database = config.storage.path
    state = look_at(database.parent)
    found.append(judge_shared_directory(state, "state directory", group))
    sockets = look_at(config.control.directory)
    found.append(judge_shared_directory(sockets, "directory of the control sockets", group))
    beside = [directory(database), *(database.with_name(database.name + suffix) for suffix in BESIDE)]
    found += [judge_database_file(look_at(path), state) for path in (database, *filter(os.path.exists, beside))]
    missing = state.is_missing or sockets.is_missing  # for which a role ends with the same
    return Report("permissions", tuple(found), CONFIGURATION if missing else NO_PERMISSION)


def _credentials(config: Config, *, intake: bool, dispatch: bool) -> Report:
    from kmp_smsd.cli.gathering.secrets import secrets_of
    from kmp_smsd.diagnosis.finding import Report
    from kmp_smsd.diagnosis.secrets import judge_secret

    found = tuple(judge_secret(one) for one in secrets_of(config, intake=intake, dispatch=dispatch))
    return Report("credentials", found, NO_PERMISSION)


def _database(settings: Settings, config: Config, wanted: frozenset[str], *, dispatch: bool) -> Iterator[Report]:
    """All that needs the store open; where that fails, the rest is not looked at."""
    from kmp_smsd.cli.checking import check_integrity
    from kmp_smsd.diagnosis.finding import Report, failure
    from kmp_smsd.storage import StoreError

    checks = [name for name in ("master-key", "database", "integrity", "clock", "traffic") if name in wanted]
    if not checks:
        return
    done: list[str] = []
    try:
        with settings.store() as store:
            for name in checks:
                if name == "master-key":
                    yield _master_key(config, store, dispatch=dispatch)
                elif name == "database":
                    yield _room(config, store)
                elif name == "integrity":
                    yield check_integrity(store)
                elif name == "clock":
                    yield _clock(store)
                else:
                    yield _traffic(config, store)
                done.append(name)
    except (StoreError, OSError) as error:
        code, sentence = explain(error) or (TEMPORARY, str(error))
        yield Report("database", (failure(sentence, "mend what the sentence names; docs/storage.rst helps"),), code)
        for name in checks:
            if name not in done and name != "database":
                yield Report(name, skipped="the database could not be used")


def _master_key(config: Config, store: Store, *, dispatch: bool) -> Report:
    from kmp_smsd.cli.gathering.secrets import master_key_of
    from kmp_smsd.diagnosis.finding import Report
    from kmp_smsd.diagnosis.secrets import judge_master_key

    facts = master_key_of(config, store.master_key(), dispatch=dispatch)
    return Report("master-key", tuple(judge_master_key(facts)), NO_PERMISSION)


def _room(config: Config, store: Store) -> Report:
    from kmp_smsd.cli.gathering.machine import room_beside
    from kmp_smsd.diagnosis.finding import Report, failure
    from kmp_smsd.diagnosis.inbox import judge_inbox
    from kmp_smsd.diagnosis.room import judge_room
    from kmp_smsd.storage import StoreError
    from kmp_smsd.storage.inbox_files import directory

    path = config.storage.path
    found = judge_room(room_beside(path))
    try:
        received_at = [message.received_at for message in store.waiting_in_inbox()]
    except StoreError as error:
        found.append(
            failure(f"the inbox cannot be read: {error}", "mend what the sentence names; intake needs it, too")
        )
    else:
        found.append(judge_inbox(str(directory(path)), received_at, now_ms()))
    return Report("database", tuple(found), TEMPORARY)


def _clock(store: Store) -> Report:
    from kmp_smsd.cli.gathering.machine import is_synchronized
    from kmp_smsd.diagnosis.clock import ClockFacts, judge_clock
    from kmp_smsd.diagnosis.finding import Report

    newest = store.journal.listing(limit=1)
    facts = ClockFacts(now=now_ms(), synchronized=is_synchronized(), last_entry_at=newest[0]["at"] if newest else None)
    return Report("clock", tuple(judge_clock(facts)))


def _traffic(config: Config, store: Store) -> Report:
    from kmp_smsd.diagnosis.finding import Report
    from kmp_smsd.diagnosis.traffic import DAY_MS, TrafficFacts, judge_traffic
    from kmp_smsd.storage.journal import HOUR_MS

    now = now_ms()
    holds = store.tracing.open_holds()
    facts = TrafficFacts(
        now=now,
        refused=store.tracing.refused_classes((now - DAY_MS) // HOUR_MS),
        holds=holds.count,
        oldest_hold_at=holds.oldest_at,
        platforms=store.platforms.listing(at_most=sys.maxsize),
        configured=config.platforms.keys(),
    )
    return Report("traffic", tuple(judge_traffic(facts)))


def _address_filter(config: Config, *, intake: bool, dispatch: bool) -> Report:
    from kmp_smsd.cli.gathering.units import address_filter
    from kmp_smsd.cli.hardening import peers_of, resolve
    from kmp_smsd.diagnosis.address_filter import judge_filter
    from kmp_smsd.diagnosis.finding import Report

    found = []
    for role, wanted in (("intake", intake), ("dispatch", dispatch)):
        if wanted and (facts := address_filter(f"kmp-smsd-{role}.service")) is not None:
            peers = {f"{peer.who}: {peer.host}": resolve(peer.host) for peer in peers_of(config, role)}
            found += judge_filter(facts, peers)
    if not found:
        return Report("address-filter", skipped="systemd does not say what the units may talk to")
    return Report("address-filter", tuple(found), UNAVAILABLE)


def _smsc(config: Config, name: str, *, binds: bool) -> Report:
    from kmp_smsd.cli.gathering.network import reach, try_bind
    from kmp_smsd.cli.gathering.secrets import here
    from kmp_smsd.config.secrets import PasswordUnfit, SecretUnavailable, read_password
    from kmp_smsd.diagnosis.finding import Report, failure
    from kmp_smsd.diagnosis.peers import judge_bind, judge_smsc

    link = config.smsc[name]
    hosts = [reach(host, link) for host in link.hosts]
    found = judge_smsc(hosts)
    if binds:
        try:
            password = read_password(link.model_copy(update={"password": here(link.password)}))
        except PasswordUnfit as error:
            found.append(failure(f"no bind is tried: {error}", "mend what the sentence names; intake needs it, too"))
        except SecretUnavailable as error:
            found.append(failure(f"no bind is tried: {error}", "run this as root, or where intake's password is read"))
        else:
            reached = [host for host, facts in zip(link.hosts, hosts, strict=True) if facts.connected]
            found += [judge_bind(name, try_bind(host, link, password)) for host in reached]
    return Report(f"smsc {name}", tuple(found), UNAVAILABLE)


def _platform(settings: Settings, config: Config, name: str) -> Report:
    from kmp_smsd.cli.gathering.network import probe_platform
    from kmp_smsd.cli.gathering.secrets import here, is_closed_to_us
    from kmp_smsd.config.secrets import SecretUnavailable, read_secret, ssh_identity
    from kmp_smsd.diagnosis.finding import Report, failure, warning
    from kmp_smsd.diagnosis.peers import judge_platform, judge_receipt
    from kmp_smsd.storage import StoreError

    identity = ssh_identity(config.platforms[name].channel.identity, config.secrets)
    try:
        secret = read_secret(here(identity))
    except SecretUnavailable as error:
        judgement = warning if is_closed_to_us(identity) else failure
        found = [judgement(f"no login is tried: {error}", "run this as root, or where dispatch's SSH identity is read")]
    else:
        found = judge_platform(name, probe_platform(config, name, lambda _: secret))
    with suppress(StoreError, OSError), settings.store() as store:  # what is wrong with it has been told
        found.append(judge_receipt(store.platforms.state(name).last_success_at, now_ms()))
    return Report(f"platform {name}", tuple(found), UNAVAILABLE)


def _sandbox() -> Report:
    from kmp_smsd.cli.gathering.machine import is_in_unit, sandbox
    from kmp_smsd.diagnosis.finding import Report
    from kmp_smsd.diagnosis.sandbox import judge_sandbox

    if not is_in_unit():
        return Report("sandbox", skipped="this does not run in a unit of systemd")
    return Report("sandbox", tuple(judge_sandbox(sandbox())))
