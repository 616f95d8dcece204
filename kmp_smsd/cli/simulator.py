"""``kmp-smsd simulator`` and ``kmp-smsd demo``: the counterparts, for a lab. They listen on loopback only."""

from __future__ import annotations

import base64
import os
import signal
import threading
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path
from typing import IO, TYPE_CHECKING, NoReturn

import click

from kmp_smsd.cli.arguments import FilePath, OpenFile
from kmp_smsd.cli.failures import REFUSED, Failed
from kmp_smsd.cli.standard_output import check_heard
from kmp_smsd.domain.shown import printable, shown

if TYPE_CHECKING:
    from kmp_smsd.simulator.server import SmscServer
    from kmp_smsd.simulator.submit import SubmitAnswer
    from kmp_smsd.smpp.submit import SubmitSm

LINE_OCTETS_MAX = 4096
PUBLIC_KEY_OCTETS_MAX = 65_536


class Latin1Type(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """Text as the simulated SMSC writes it into a PDU."""

    name = "TEXT"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return value if _is_latin1(value) else self.fail(f"'{shown(value)}' is not in Latin-1", param, ctx)


LATIN1 = Latin1Type()


@click.command()
@click.option(
    "--directory", type=FilePath(file_okay=False, path_type=Path), help="Leave the files here; else none remain."
)
def demo(directory: Path | None) -> None:
    """Show the whole road of a key on this machine: SMSC, terminals, daemon, platforms.

    Exits 0 where in the end the platforms hold exactly what is bound.
    """
    from kmp_smsd.cli.demo import demo as play

    if (
        directory is not None
        and os.path.lexists(directory)
        and not (directory.is_dir() and not any(directory.iterdir()))
    ):
        raise Failed(f"{shown(str(directory))} is in use: name an empty directory, or one that does not exist yet")
    for number in (signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup wants it
            signal.signal(number, _stop)
    if not play(directory):
        raise click.exceptions.Exit(REFUSED)


def _stop(number: int, _frame: object) -> NoReturn:
    """As ^C does: nothing that was begun runs on, and no file remains."""
    signal.signal(number, signal.SIG_IGN)  # of a closed terminal tell the kernel and the shell
    raise SystemExit(128 + number)  # as the shell counts signals


@click.group()
def simulator() -> None:
    """Stand in for an SMSC or a platform, in a lab. Both listen on this machine's loopback address only."""


@simulator.command()
@click.argument("file", type=OpenFile("rb"), default="-")
@click.option("--port", type=click.IntRange(0, 65535), default=2775, show_default=True, help="0: any free one.")
@click.option("--system-id", type=LATIN1, default="esme", show_default=True, help="The system_id that may bind.")
@click.option("--password", type=LATIN1, default="secret", show_default=True, help="Its password.")
@click.option("--window", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Unanswered messages.")
@click.option(
    "--destination", type=LATIN1, default="10690000", show_default=True, help="The short code that messages go to."
)
@click.option("--stay", is_flag=True, help="Go on listening after the last message was answered.")
def smsc(file: IO[bytes], port: int, system_id: str, password: str, window: int, destination: str, stay: bool) -> None:
    """Be an SMSC that sends one message per line of FILE (standard input): MDN TEXT.

    A message stays here until the ESME accepts it or says never; then its command_status is printed. Ends when all
    are answered, or when interrupted. What the ESME submits (a reply to a terminal) is taken and told. A line that is
    no message ends it, or with --stay is told and passed over.
    """
    from twisted.internet.error import CannotListenError

    from kmp_smsd.simulator.server import SmscServer
    from kmp_smsd.simulator.smsc import SmscSettings

    server = SmscServer(SmscSettings(system_id=system_id, password=password, window=window), port)
    try:
        server.start()
    except CannotListenError as error:
        raise Failed(f"port {port} of 127.0.0.1: {error.socketError.strerror}: choose another by --port") from None
    with ExitStack() as ending:
        ending.callback(server.stop)
        click.echo(f"kmp-smsd: an SMSC listens on 127.0.0.1:{server.port}", err=True)
        server.answer_submits(_take)
        _send_lines(server, file, destination, stay=stay)
        if stay:
            _until_stopped()


def _take(submit_sm: SubmitSm) -> SubmitAnswer:
    from kmp_smsd.simulator.submit import SubmitAnswer

    text = printable(submit_sm.short_message.decode("latin-1"))
    click.echo(f"kmp-smsd: {printable(submit_sm.destination_addr)} gets {text}", err=True)
    return SubmitAnswer()


def _send_lines(server: SmscServer, file: IO[bytes], destination: str, *, stay: bool) -> None:
    from kmp_smsd.smpp.constants import name_of

    room = threading.Semaphore(10_000)  # messages that wait here, however long the file is
    said = threading.Lock()
    sent: set[Future[int]] = set()

    for number, line in enumerate(iter(lambda: file.readline(LINE_OCTETS_MAX + 1), b""), 1):
        try:
            text = _text(number, line)
        except Failed as fault:
            if not stay:
                raise
            click.echo(f"kmp-smsd: {fault}", err=True)  # who types may mistype
            rest = line
            while len(rest) > LINE_OCTETS_MAX and not rest.endswith(b"\n"):
                rest = file.readline(LINE_OCTETS_MAX + 1)  # it is no message either
            continue
        if not text.strip() or text.startswith("#"):
            continue
        source_addr, _, message = text.strip().partition(" ")

        def answered(future: Future[int], text: str = text) -> None:
            room.release()
            with said:
                sent.discard(future)
                click.echo(f"{name_of(future.result())} {printable(text)}")

        room.acquire()
        with said:
            check_heard()
        future = server.send(source_addr, message, destination_addr=destination)
        with said:
            sent.add(future)
        future.add_done_callback(answered)
    while sent:
        with said:
            check_heard()
            future_or_none = next(iter(sent), None)
        if future_or_none is not None:
            future_or_none.result()


def _text(number: int, line: bytes) -> str:
    """The line, which is a message, a comment or empty. Raises Failed."""
    if len(line) > LINE_OCTETS_MAX:
        raise Failed(f"line {number} has more than {LINE_OCTETS_MAX:,} octets: is a line end missing?")
    try:
        text = line.decode().rstrip("\r\n")
    except UnicodeDecodeError:
        raise Failed(f"line {number} is not in UTF-8") from None
    if not _is_latin1(text):
        raise Failed(f"line {number} has characters that Latin-1 has not: '{shown(text)}'")
    if text.strip() and not text.startswith("#") and " " not in text.strip():
        raise Failed(f"line {number}: write MDN TEXT, as in 8613912345678 K1:KEY-1")
    return text


def _is_latin1(text: str) -> bool:
    try:
        text.encode("latin-1")
    except UnicodeEncodeError:
        return False
    return True


@simulator.command()
@click.argument("public_key", type=FilePath(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--store",
    type=FilePath(dir_okay=False, path_type=Path),
    default=Path("held.db"),
    show_default=True,
    help="Where kmp-receive keeps what it is given.",
)
def platform(public_key: Path, store: Path) -> None:
    """Be a platform's SSH server that runs kmp-receive for the owner of the SSH key PUBLIC_KEY (a .pub file).

    Prints the [channel] section that leads here; port and host key are new each time. Ends when interrupted.
    """
    from kmp_smsd.simulator.platform import SimulatedPlatform
    from kmp_smsd.simulator.receiver import receiver_command

    with open(public_key, "rb") as file:
        line = file.read(PUBLIC_KEY_OCTETS_MAX).decode(errors="replace").strip()
    if not _is_public_key(line):
        raise Failed(f"{public_key} is no SSH public key: name the .pub file of the daemon's SSH identity")
    try:
        command = receiver_command(store.absolute())
    except RuntimeError as error:
        raise Failed(str(error)) from None
    server = SimulatedPlatform(command, line)
    server.start()
    try:
        click.echo(
            f'[channel]\nkind = "ssh"\nhosts = ["{server.address}"]\nuser = "{server.user}"\n'
            f'host_keys = ["{server.host_key}"]'
        )
        check_heard()
        _until_stopped()
    finally:
        server.stop()


def _is_public_key(line: str) -> bool:
    """Whether it reads ``ssh-ed25519 AAAA...``; the base64 names the algorithm again (RFC 4253, section 6.6)."""
    words = line.split()
    if len(words) < 2:
        return False
    name = words[0].encode()
    try:
        return base64.b64decode(words[1], validate=True).startswith(len(name).to_bytes(4) + name)
    except ValueError:
        return False


def _until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    while not stopped.wait(3600):
        continue
