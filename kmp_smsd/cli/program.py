"""The program: its global options, and its commands by name, each imported when it is called."""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
from click.core import ParameterSource
from click.shell_completion import CompletionItem

from kmp_smsd import __version__
from kmp_smsd.cli import standard_output
from kmp_smsd.cli.carefully import interrupt
from kmp_smsd.cli.failures import BUG, INTERRUPTED, REFUSED, SEE_WHERE, USAGE, explain
from kmp_smsd.cli.settings import DEFAULT_CONFIG, Settings
from kmp_smsd.domain.did_you_mean import did_you_mean
from kmp_smsd.domain.shown import printable, shown

ARGUMENT_CHARACTERS_MAX = 4096  # as Linux limits paths

#: Name -> module in this room, the command in it, and its line in --help.
COMMANDS = {
    "run": ("daemon", "run", "Take messages and deliver keys, in one process."),
    "intake": ("daemon", "intake", "Take messages from the SMSCs and decide them."),
    "dispatch": ("daemon", "dispatch", "Deliver keys to the platforms."),
    "check-config": ("check_config", "check_config", "Tell everything that is wrong with the configuration."),
    "status": ("status", "status", "Show how the roles that run here are."),
    "top": ("status", "top", "Show the status live."),
    "reload": ("steering", "reload", "Put the configuration files in force."),
    "drain": ("steering", "drain", "Take and deliver nothing new."),
    "pause": ("steering", "pause", "Let a link or a platform rest."),
    "resume": ("steering", "resume", "End a pause or a drain."),
    "log-level": ("steering", "log_level", "Have a part of the daemon say more or less."),
    "trace": ("tracing", "trace", "Log each PDU of a link for some minutes."),
    "keys": ("keys", "keys", "Import terminals' keys, show them, end them."),
    "registrations": ("registrations", "registrations", "Say which MDN may be bound to which app."),
    "subscribers": ("subscribers", "subscribers", "Show what is known of a number, and erase it."),
    "bindings": ("bindings", "bindings", "Show and withdraw bindings of keys to MDNs."),
    "sync": ("sync", "sync", "Take sync requests that did not come by SMS."),
    "waiting": ("waiting", "waiting", "Show the requests that came before what they need."),
    "holds": ("holds", "holds", "Decide the requests that wait for a person."),
    "outbox": ("outbox", "outbox", "Show and hurry what is to be delivered."),
    "platforms": ("platforms", "platforms", "Show, test, trust and forget platforms, and deliver all to one again."),
    "doctor": ("doctor", "doctor", "Check everything, and say what to do."),
    "explain": ("explain", "explain", "Explain what happened to the messages of a number, and what to do now."),
    "simulate": ("simulate", "simulate", "Show what would become of a message, and write nothing."),
    "journal": ("journal", "journal", "Show what became of messages."),
    "replies": ("replies", "replies", "Show what terminals were told."),
    "master-key": ("master_key", "master_key", "Make and replace the key that protects all others."),
    "hardening": ("hardening", "hardening", "Print a drop-in for the unit of a role: it may talk to its peers only."),
    "db": ("db", "db", "Create, migrate, back up, restore and check the database."),
    "demo": ("simulator", "demo", "Show the whole road of a key on this machine."),
    "simulator": ("simulator", "simulator", "Stand in for an SMSC or a platform, in a lab."),
}

BEFORE_THE_COMMAND = ("--config", "--debug")


class _ReaderGone(Exception):
    """Whoever read our output has seen enough."""


class Program(click.Group):
    """Every mistake is one sentence on standard error and an exit code of sysexits; no traceback without --debug."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click asks so
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  click asks so
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"kmp_smsd.cli.{module}"), name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As Group does, but with a hint: there are no commands yet among which it could look for one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            ctx.fail(f"No such command '{name}'{did_you_mean(name, COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  click's
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """As Group does, but without importing each command for its line of help."""
        found = [CompletionItem(name, help=line) for name, (_, _, line) in COMMANDS.items()]
        options = click.Command.shell_complete(self, ctx, incomplete)
        return [one for one in found if one.value.startswith(incomplete)] + options

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        with _to_stdout():  # --help and --version write here
            return super().make_context(*args, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _to_stdout():
            return super().invoke(ctx)

    def main(  # type: ignore[override]  # click's main has more parameters, all passed on
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        settings = Settings()
        _open_closed_streams()
        standard_output.install()
        arguments = sys.argv[1:] if args is None else list(args)
        try:
            _check(arguments)
            extra |= {"standalone_mode": False, "obj": settings}
            code = super().main(arguments, prog_name or "kmp-smsd", **extra)
            if (fault := standard_output.fault()) is not None and not isinstance(fault, BrokenPipeError):
                _complain(f"{'' if code else 'done, but '}{_not_written(fault)}")
                code = code or REFUSED  # not 75: who tries again does again what is done
        except _ReaderGone:
            code = 0
        except (KeyboardInterrupt, click.Abort):
            _complain("interrupted")
            code = INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            _complain(error.format_message())
            code = USAGE
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "kmp-smsd"
            misplaced = isinstance(error, click.NoSuchOption) and error.option_name in BEFORE_THE_COMMAND
            where = ": it stands before the command" if misplaced else ""
            _complain(f"{_sentence(error.format_message(), arguments)}{where} (see '{path} --help')")
            code = USAGE
        except click.ClickException as error:
            _complain(error.format_message())
            code = error.exit_code
        except Exception as error:  # a bug, too, is one sentence and exit code 70
            fault = standard_output.fault()
            known = (REFUSED, _not_written(fault)) if fault is not None and fault is error else explain(error)
            if known is None and interrupt.came:  # whatever a library made of it
                known = INTERRUPTED, "interrupted"
            if settings.debug:
                traceback.print_exc()
            code, sentence = known or (
                BUG,
                f"this is a bug in kmp-smsd {__version__}: {type(error).__name__}; "
                "--debug before the command shows where, please report it",
            )
            _complain(sentence)
        raise SystemExit(code if isinstance(code, int) else 0)


@click.group("kmp-smsd", cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="kmp-smsd", message="%(prog)s %(version)s")
@click.option(
    "--config",
    "path",
    type=click.Path(path_type=Path, readable=False),  # told by who reads it
    default=DEFAULT_CONFIG,
    envvar="KMP_SMSD_CONFIG",
    show_default=True,
    show_envvar=True,
    help="The configuration file; platforms.d lies beside it.",
)
@click.option("--debug", is_flag=True, help="Show a traceback with every error.")
@click.pass_obj
def program(settings: Settings, path: Path, debug: bool) -> None:
    """Key management platform that synchronises terminal keys by SMS.

    Data goes to standard output, messages to standard error. What lists or shows takes --json: one JSON object per
    line, times in Unix milliseconds. Exit codes: 0 done, 1 refused or failed, 64 wrong arguments, 69 a peer does not
    answer, 70 a bug, 75 try again later, 77 a secret or permission is missing, 78 configuration or database.
    """
    source = click.get_current_context().get_parameter_source("path")
    settings.path, settings.named, settings.debug = path, source is not ParameterSource.DEFAULT, debug
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale without Unicode is no reason to fail


def _check(arguments: Sequence[str]) -> None:
    """Refuse what could only be a mistake or an attack, before it reaches a terminal, a file or the database."""
    for argument in arguments:
        categories = {unicodedata.category(character) for character in argument[:ARGUMENT_CHARACTERS_MAX]}
        if len(argument) > ARGUMENT_CHARACTERS_MAX:
            fault = f"has more than {ARGUMENT_CHARACTERS_MAX:,} characters"
        elif "Cs" in categories:  # octets that Python could not decode became surrogates
            fault = "is not in UTF-8"
        elif categories & {"Cc", "Cf", "Zl", "Zp"}:  # escape sequences, writing from right to left, line ends
            fault = "has control characters"
        else:
            continue
        raise click.UsageError(f"the argument '{shown(argument)}' {fault}")


def _sentence(text: str, arguments: Sequence[str]) -> str:
    """What click says, as a sentence without its full stop. It quotes arguments however long they are."""
    for argument in arguments:
        for value in (argument, argument.partition("=")[2]):
            if value != shown(value):
                text = text.replace(repr(value)[1:-1], shown(value)).replace(value, shown(value))
    text = re.sub(r" valid (integer|float) range\.$", r" valid \1", text)  # as click says of a number within bounds
    return " ".join(text.split()).rstrip(".")


def _complain(sentence: str) -> None:
    """Say it; where standard error takes nothing any more, the exit code tells it."""
    lines = sentence if "\n" in sentence else f"kmp-smsd: {sentence}"
    level = ""
    if "JOURNAL_STREAM" in os.environ:
        from kmp_smsd.cli.journal_socket import ERROR_PREFIX, leads_to_journal

        level = ERROR_PREFIX if leads_to_journal(sys.stderr) else ""
    click.echo("\n".join(level + printable(line) for line in lines.split("\n")), err=True)


@contextmanager
def _to_stdout() -> Iterator[None]:
    """Around what may write there."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError as error:  # click would end any with 1, and say nothing
        if error is standard_output.fault():
            raise _ReaderGone from None
        raise ConnectionError(f"{error.strerror}: {SEE_WHERE}") from error


def _not_written(fault: OSError) -> str:
    return f"standard output cannot be written: {fault.strerror or fault}"


def _open_closed_streams() -> None:
    """Lead standard streams that are closed (``>&-``) nowhere; else the next file that is opened takes their place.

    Those of the processes that we begin too.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: SIM115  open to the end
            os.set_inheritable(stream.fileno(), True)
            setattr(sys, name, stream)
