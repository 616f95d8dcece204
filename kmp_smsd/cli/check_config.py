"""``kmp-smsd check-config``."""

from __future__ import annotations

import click

from kmp_smsd.cli.failures import NO_PERMISSION, Failed
from kmp_smsd.cli.settings import Settings
from kmp_smsd.domain.counted import counted
from kmp_smsd.vault.own_process import make_undumpable


@click.command()
@click.pass_obj
def check_config(settings: Settings) -> None:
    """Tell everything that is wrong with the configuration.

    Exits 0, 78 after every fault of every file, each with its line, or 77 where an SMSC's password is unfit for a bind,
    or a secret's file is open to other users or is a directory. A password is read only where whoever runs this may,
    and no other secret is.
    """
    from kmp_smsd.cli.gathering.secrets import unfit_files, unfit_passwords

    make_undumpable()
    config = settings.config
    unfit = list(unfit_files(config))
    for told in (told for told, refused in unfit if not refused):
        click.echo(f"kmp-smsd: {told} (warning)", err=True)
    if faults := [*unfit_passwords(config), *(told for told, refused in unfit if refused)]:
        raise Failed("\n".join(faults), NO_PERMISSION)
    links, platforms = counted(len(config.smsc), "link"), counted(len(config.platforms), "platform")
    click.echo(f"{config.path}: good; {links} to SMSCs, {platforms}")
    if not config.smsc:
        click.echo("kmp-smsd: no link to an SMSC is enabled: intake does not start", err=True)
    if not config.platforms:
        click.echo("kmp-smsd: no platform is enabled: what is bound waits in the outbox", err=True)
