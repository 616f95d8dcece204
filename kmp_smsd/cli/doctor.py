"""``kmp-smsd doctor``: everything that can be checked from here, in a fixed order, each fault with its remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.arguments import json_option
from kmp_smsd.cli.failures import TEMPORARY, explain
from kmp_smsd.cli.settings import Settings
from kmp_smsd.cli.standard_output import check_heard
from kmp_smsd.control.protocol import ROLES
from kmp_smsd.vault.own_process import hide_memory

if TYPE_CHECKING:
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
    "roles",
    "address-filter",
    "smsc",
    "platforms",
    "sandbox",
)
BOTH = "both"
PLATFORMS_AT_ONCE = 16


@click.command()
@click.option("--bind", "binds", is_flag=True, help="Also bind to every SMSC, and unbind: see below.")
@click.option("--skip", "skipped", type=click.Choice(CHECKS), multiple=True, help="Leave out a check; may be repeated.")
@click.option(
    "--role",
    type=click.Choice((BOTH, *ROLES)),
    default=BOTH,
    show_default=True,
    help="Only what this role needs, in its unit.",
)
@json_option
@click.pass_obj
def doctor(settings: Settings, binds: bool, skipped: tuple[str, ...], role: str, as_json: bool) -> None:
    """Check everything that can be checked from here, and say what to do.

    That is configuration, files, secrets, database, clock, what running roles say of themselves, the units' address
    filters, SMSCs, platforms and the sandbox, in a fixed order. Nothing is changed and no key is sent; the roles may
    run. An SMSC that allows one bind only may refuse that of --bind, or end intake's. `integrity` reads the whole
    database: leave it out where that takes too long.

    Exits 0 where all is good, 1 where there are warnings only, else with the code of the first check that failed: 78
    configuration or database, 77 a secret, key or permission, 75 no room, 69 a role that is not ready, or a peer.
    """
    from kmp_smsd.cli import findings
    from kmp_smsd.diagnosis.finding import exit_code

    hide_memory()  # it reads all secrets
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

    from kmp_smsd.cli import checks
    from kmp_smsd.config.faults import ConfigFaults

    try:
        config = settings.config
    except ConfigFaults as faults:
        yield checks.unreadable(faults)
        return
    intake, dispatch = role != "dispatch", role != "intake"
    if "configuration" in wanted:
        yield checks.configuration(config, intake=intake, dispatch=dispatch)
    if "permissions" in wanted:
        yield checks.permissions(config)
    if "credentials" in wanted:
        yield checks.credentials(config, intake=intake, dispatch=dispatch)
    yield from _of_store(settings, wanted, dispatch=dispatch)
    if "roles" in wanted:
        for one in ROLES if role == BOTH else (role,):
            yield checks.role(config, one)
    if "address-filter" in wanted:
        yield checks.address_filter(config, intake=intake, dispatch=dispatch)
    if "smsc" in wanted and intake:
        for name in config.smsc:
            yield checks.smsc(config, name, binds=binds)
    if "platforms" in wanted and dispatch:
        # One that hangs takes its whole time to connect: the others do not wait for it.
        with ThreadPoolExecutor(PLATFORMS_AT_ONCE) as pool:
            yield from pool.map(partial(checks.platform, settings), config.platforms)
    if "sandbox" in wanted:
        yield checks.sandbox(config)


def _of_store(settings: Settings, wanted: frozenset[str], *, dispatch: bool) -> Iterator[Report]:
    """All that needs the store open; where that fails, the rest is not looked at."""
    from kmp_smsd.cli import checks
    from kmp_smsd.diagnosis.finding import Report, failure
    from kmp_smsd.storage import StoreError

    config = settings.config
    of_store: dict[str, Callable[[Store], Report]] = {
        "master-key": partial(checks.master_key, config, dispatch=dispatch),
        "database": partial(checks.database, config),
        "integrity": checks.integrity,
        "clock": checks.clock,
        "traffic": partial(checks.traffic, config),
    }
    left = [name for name in of_store if name in wanted]
    if not left:
        return
    try:
        with settings.store() as store:
            while left:
                yield of_store[left[0]](store)
                del left[0]
    except (StoreError, OSError) as error:
        code, sentence = explain(error) or (TEMPORARY, str(error))
        yield Report("database", (failure(sentence, "mend what the sentence names; docs/storage.rst helps"),), code)
        for name in left:
            if name != "database":
                yield Report(name, skipped="the database could not be used")
