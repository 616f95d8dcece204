"""``kmp-smsd simulator`` and ``kmp-smsd demo``: the counterparts, for a lab. They listen on loopback only."""

from __future__ import annotations

import signal
import sys
import threading
from concurrent.futures import Future
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click

from kmp_smsd.cli.failures import REFUSED, Failed

if TYPE_CHECKING:
    from kmp_smsd.simulator.server import SmscServer


@click.command()
@click.option(
    "--directory", type=click.Path(file_okay=False, path_type=Path), help="Leave the files here; else none remain."
)
def demo(directory: Path | None) -> None:
    """Show the whole road of a key on this machine: SMSC, terminals, daemon, platforms.

    Exits 0 where in the end the platforms hold exactly what is bound.
    """
    from kmp_smsd.cli.demo import demo as play

    if not play(directory):
        raise click.exceptions.Exit(REFUSED)


@click.group()
def simulator() -> None:
    """Stand in for an SMSC or a platform, in a lab. Both listen on this machine's loopback address only."""


@simulator.command()
@click.argument("file", type=click.File("r", encoding="utf-8"), default="-")
@click.option("--port", type=click.IntRange(0, 65535), default=2775, show_default=True, help="0: any free one.")
@click.option("--system-id", default="esme", show_default=True, help="The system_id that may bind.")
@click.option("--password", default="secret", show_default=True, help="Its password.")
@click.option("--window", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Unanswered messages.")
@click.option("--destination", default="10690000", show_default=True, help="The short code that messages go to.")
@click.option("--stay", is_flag=True, help="Go on listening after the last message was answered.")
def smsc(file: IO[str], port: int, system_id: str, password: str, window: int, destination: str, stay: bool) -> None:
    """Be an SMSC that sends one message per line of FILE (standard input): MDN TEXT.

    A message stays here until the ESME accepts it or says never; then its command_status is printed. Ends when all
    are answered, or when interrupted.
    """
    from kmp_smsd.simulator.server import SmscServer
    from kmp_smsd.simulator.smsc import SmscSettings

    server = SmscServer(SmscSettings(system_id=system_id, password=password, window=window), port)
    with server:
        click.echo(f"kmp-smsd: an SMSC listens on 127.0.0.1:{server.port}", err=True)
        _send_lines(server, file, destination)
        if stay:
            _until_stopped()


def _send_lines(server: SmscServer, file: IO[str], destination: str) -> None:
    from kmp_smsd.smpp.constants import name_of

    room = threading.Semaphore(10_000)  # messages that wait here, however long the file is
    said = threading.Lock()
    broken = threading.Event()
    sent: set[Future[int]] = set()

    for number, line in enumerate(file, 1):
        text = line.rstrip("\r\n")
        if not text.strip() or text.startswith("#"):
            continue
        source_addr, _, message = text.strip().partition(" ")
        if not message:
            raise Failed(f"line {number}: write MDN TEXT, as in 8613912345678 K1:KEY-1")

        def answered(future: Future[int], text: str = text) -> None:
            room.release()
            with said:
                sent.discard(future)
                try:
                    click.echo(f"{name_of(future.result())} {text}")
                except BrokenPipeError:
                    broken.set()

        room.acquire()
        if broken.is_set():
            raise BrokenPipeError
        future = server.send(source_addr, message, destination_addr=destination)
        with said:
            sent.add(future)
        future.add_done_callback(answered)
    while sent and not broken.is_set():
        with said:
            future_or_none = next(iter(sent), None)
        if future_or_none is not None:
            future_or_none.result()


@simulator.command()
@click.argument("public_key", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--store",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("held.db"),
    show_default=True,
    help="Where kmp-receive keeps what it is given.",
)
def platform(public_key: Path, store: Path) -> None:
    """Be a platform's SSH server that runs kmp-receive for the owner of the SSH key PUBLIC_KEY (a .pub file).

    Prints the [channel] section that leads here; port and host key are new each time. Ends when interrupted.
    """
    from kmp_smsd.simulator.lab import receiver_path
    from kmp_smsd.simulator.platform import SimulatedPlatform

    line = public_key.read_text(encoding="utf-8", errors="replace").strip()
    if len(line.split()) < 2:
        raise Failed(f"{public_key} is no SSH public key: name the .pub file of the daemon's SSH identity")
    try:
        receiver = receiver_path()
    except RuntimeError as error:
        raise Failed(str(error)) from None
    server = SimulatedPlatform([sys.executable, str(receiver), "--store", str(store.absolute())], line)
    server.start()
    try:
        click.echo(
            f'[channel]\nkind = "ssh"\nhosts = ["{server.address}"]\nuser = "{server.user}"\n'
            f'host_keys = ["{server.host_key}"]'
        )
        sys.stdout.flush()
        _until_stopped()
    finally:
        server.stop()


def _until_stopped() -> None:
    """Wait for SIGTERM or SIGINT."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    signal.signal(signal.SIGINT, lambda *_: stopped.set())
    while not stopped.wait(3600):
        continue
