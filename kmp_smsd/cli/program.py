"""The program: its global options, and its commands by name, each imported when it is called."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from kmp_smsd import __version__
from kmp_smsd.cli.failures import BUG, INTERRUPTED, USAGE, explain
from kmp_smsd.cli.settings import DEFAULT_CONFIG, Settings

#: Name -> module in this room, the command in it, and its line in --help.
COMMANDS = {
    "run": ("daemon", "run", "Take messages and deliver keys, in one process."),
    "intake": ("daemon", "intake", "Take messages from the SMSCs and decide them."),
    "dispatch": ("daemon", "dispatch", "Deliver keys to the platforms."),
    "check-config": ("check_config", "check_config", "Tell everything that is wrong with the configuration."),
    "keys": ("keys", "keys", "Import terminals' keys, show them, end them."),
    "registrations": ("registrations", "registrations", "Say which MDN may be bound to which app."),
    "bindings": ("bindings", "bindings", "Show and withdraw bindings of keys to MDNs."),
    "holds": ("holds", "holds", "Decide the requests that wait for a person."),
    "outbox": ("outbox", "outbox", "Show and hurry what is to be delivered."),
    "platforms": ("platforms", "platforms", "Show, test and trust platforms, and deliver all to one again."),
    "journal": ("journal", "journal", "Show what became of messages."),
    "master-key": ("master_key", "master_key", "Make the key that protects all others."),
    "db": ("db", "db", "Create, migrate, back up and restore the database."),
    "demo": ("simulator", "demo", "Show the whole road of a key on this machine."),
    "simulator": ("simulator", "simulator", "Stand in for an SMSC or a platform, in a lab."),
}


class _ReaderGone(Exception):
    """Whoever read our output has seen enough."""


class Program(click.Group):
    """Every mistake is one sentence on standard error and an exit code of sysexits; no traceback without --debug."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        module, name, _ = COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"kmp_smsd.cli.{module}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            raise _ReaderGone from None  # click would call it a failure
        return result

    def main(  # type: ignore[override]
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **extra: Any
    ) -> NoReturn:
        settings = Settings()
        try:
            code = super().main(args, prog_name or "kmp-smsd", **extra | {"standalone_mode": False, "obj": settings})
        except _ReaderGone:
            _forget_stdout()
            code = 0
        except (KeyboardInterrupt, click.Abort):
            _complain("interrupted")
            code = INTERRUPTED
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            code = USAGE
        except click.UsageError as error:
            path = error.ctx.command_path if error.ctx else "kmp-smsd"
            _complain(f"{_sentence(error.format_message())} (see '{path} --help')")
            code = USAGE
        except click.ClickException as error:
            _complain(error.format_message())
            code = error.exit_code
        except Exception as error:
            known = explain(error)
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
    type=click.Path(path_type=Path),
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
    settings.path, settings.debug = path, debug
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # a locale without Unicode is no reason to fail


def _sentence(text: str) -> str:
    return " ".join(text.split()).rstrip(".")


def _complain(sentence: str) -> None:
    click.echo(f"kmp-smsd: {sentence}" if "\n" not in sentence else sentence, err=True)


def _forget_stdout() -> None:
    """Nothing more is written there, not even what is left in its buffer when the interpreter ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
