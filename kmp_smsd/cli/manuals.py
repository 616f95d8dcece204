"""The manual pages, made from what the programs themselves know: commands, options of the configuration, kmp-receive.

``python -m kmp_smsd.cli.manuals SHARE`` writes them below SHARE, such as /usr/share.
"""

from __future__ import annotations

import argparse
import inspect
import re
import runpy
from collections.abc import Iterator

import click

from kmp_smsd import __version__
from kmp_smsd.cli import roff
from kmp_smsd.cli.program import program
from kmp_smsd.config.changes import reload_of
from kmp_smsd.config.generating import only_argument
from kmp_smsd.config.page import FILES, title, told
from kmp_smsd.simulator.receiver import receiver_path

SOURCE = f"kmp-smsd {__version__}"

_FILES = (
    ("/etc/kmp-smsd/kmp-smsd.toml", "The daemon, its links and gateways: kmp-smsd.toml(5)."),
    ("/etc/kmp-smsd/platforms.d/NAME.toml", "One platform each: kmp-smsd.toml(5)."),
    ("/run/kmp-smsd/intake.sock, /run/kmp-smsd/dispatch.sock", "The control sockets, for root and the group kmp-smsd."),
    ("/var/lib/kmp-smsd/kmp-smsd.db", "The database, and beside it the files of its log and its locks."),
)
_ENVIRONMENT = (
    ("KMP_SMSD_CONFIG", "The configuration file, where `--config` does not name one."),
    ("CREDENTIALS_DIRECTORY", "Where systemd puts the credentials that the configuration names."),
    ("JOURNAL_STREAM", "Set by systemd where standard error leads to its journal."),
    ("NO_COLOR, TERM", "Where `NO_COLOR` is set or `TERM` is dumb there is no colour and no progress bar."),
    ("SUDO_USER, USER", "Who decides a hold, where `--by` does not say it."),
)


def daemon_page() -> str:
    """kmp-smsd(8)."""
    root = click.Context(program, info_name="kmp-smsd", **program.context_settings)
    about, _, exits = _help(program).partition("Exit codes: ")
    page = roff.title("kmp-smsd", 8, SOURCE) + roff.heading("NAME")
    page += "kmp\\-smsd \\- key management platform that synchronises terminal keys by SMS\n"
    page += roff.heading("SYNOPSIS") + roff.prose("`kmp-smsd` [OPTIONS] COMMAND [ARGS]...")
    page += roff.heading("DESCRIPTION") + roff.paragraphs(about)
    page += roff.heading("OPTIONS") + "".join(_options(program, root))
    page += roff.heading("COMMANDS")
    for context in _leaves(root):
        page += "".join(_command(context))
    page += roff.heading("EXIT STATUS") + "".join(_exits(exits))
    page += roff.heading("ENVIRONMENT") + "".join(roff.item(name, text) for name, text in _ENVIRONMENT)
    page += roff.heading("FILES") + "".join(roff.item(name, text) for name, text in _FILES)
    return page + roff.heading("SEE ALSO") + roff.prose("kmp-smsd.toml(5), kmp-receive(1), journalctl(1)")


def configuration_page() -> str:
    """kmp-smsd.toml(5)."""
    page = roff.title("kmp-smsd.toml", 5, SOURCE) + roff.heading("NAME")
    page += "kmp\\-smsd.toml \\- configuration of kmp\\-smsd(8), and of each platform\n"
    page += roff.heading("SYNOPSIS")
    page += ".br\n".join(roff.prose(f"`/etc/kmp-smsd/{file}`") for file in FILES)
    page += roff.heading("DESCRIPTION")
    page += roff.paragraphs(
        "The files are in TOML. An unknown option, or a value that does not fit, is a fault: `kmp-smsd check-config` "
        "tells all of them, each with its line. Relative paths start at the file.\n\n"
        'Secrets are never written there: {credential = "NAME"} is a credential of the systemd unit, {file = "/PATH"} '
        "a file.\n\n"
        "Each platform has a file of its own. The name of the file is that of the platform; only files that end in "
        ".toml are read."
    )
    for file, sections in FILES.items():
        page += roff.heading(file)
        for section, model in sections.items():
            page += roff.heading(title(section), below=True)
            about = (inspect.getdoc(model) or "").partition("\n\n")[0]
            page += roff.prose(f"{about} *Changed at a reload: {reload_of(model)}.*")
            page += "".join(roff.item(option.name, about) for option, about in told(model, section))
    return page + roff.heading("SEE ALSO") + roff.prose("kmp-smsd(8)")


def receiver_page() -> str:
    """kmp-receive(1)."""
    receiver = runpy.run_path(str(receiver_path()), run_name="kmp_receive")
    parser: argparse.ArgumentParser = receiver["make_parser"]()
    summary, _, text = receiver["__doc__"].partition("\n\n")
    about, _, exits = text.partition("Exit status: ")
    page = roff.title("kmp-receive", 1, SOURCE) + roff.heading("NAME")
    page += roff.prose(re.sub(r" \(docs/.*\)\.$", "", summary.replace(": ", " - ", 1)))
    page += roff.heading("SYNOPSIS") + roff.prose(parser.format_usage().removeprefix("usage: "))
    page += roff.heading("DESCRIPTION") + roff.paragraphs(about)
    commands = [one for one in parser._actions if isinstance(one, argparse._SubParsersAction)]
    page += roff.heading("OPTIONS") + "".join(_actions(parser))
    page += roff.heading("COMMANDS")
    for action in commands:
        for choice in action._choices_actions:
            below = action.choices[choice.dest]
            words = " ".join(one.dest.upper() for one in below._actions if not one.option_strings)
            page += roff.item(f"{choice.dest} {words}".rstrip(), f"{choice.help}.")
            if listed := "".join(_actions(below)):
                page += f".RS\n{listed}.RE\n"
    page += roff.heading("EXIT STATUS") + "".join(_exits(exits))
    return page + roff.heading("SEE ALSO") + roff.prose("kmp-smsd(8), sshd(8)")


def _help(command: click.Command) -> str:
    return inspect.cleandoc(command.help or "").replace("\b\n", "")


def _leaves(context: click.Context) -> Iterator[click.Context]:
    """A context of each command that does something, in their order."""
    group = context.command
    if not isinstance(group, click.Group):
        yield context
        return
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from _leaves(click.Context(command, parent=context, info_name=name, **command.context_settings))


def _command(context: click.Context) -> Iterator[str]:
    command = context.command
    yield roff.heading(" ".join([context.command_path, *command.collect_usage_pieces(context)]), below=True)
    yield roff.paragraphs(_help(command))
    yield from _options(command, context)
    if command.epilog:
        yield ".PP\n" + roff.paragraphs(inspect.cleandoc(command.epilog))


def _options(command: click.Command, context: click.Context) -> Iterator[str]:
    for parameter in command.params:
        record = parameter.get_help_record(context)
        if record is not None and isinstance(parameter, click.Option):  # the usage names arguments
            yield roff.item(*record)


def _exits(text: str) -> Iterator[str]:
    """What stands as "0 done, 1 refused or failed": a number, and what it means up to the next one."""
    for code, means in re.findall(r"(\d+) (.*?)(?=, \d+ |\.?$)", " ".join(text.split())):
        yield roff.item(code, f"{means}.")


def _actions(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        if action.option_strings and action.dest != "help":
            value = f" {action.metavar or action.dest.upper()}" if action.nargs is None else ""
            yield roff.item(", ".join(action.option_strings) + value, f"{action.help}.")


#: Where a page is looked for -> what makes it.
PAGES = {
    "man/man8/kmp-smsd.8": daemon_page,
    "man/man5/kmp-smsd.toml.5": configuration_page,
    "man/man1/kmp-receive.1": receiver_page,
}

if __name__ == "__main__":
    share = only_argument("python -m kmp_smsd.cli.manuals SHARE, such as /usr/share")
    for place, page in PAGES.items():
        path = share / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page(), encoding="utf-8")
