"""Debian's Kannel under the same load: bearerbox binds and acknowledges, smsbox takes what it hands on.

Kannel acknowledges a message before it is kept anywhere (`store-file` is left out: with it, it is slower, and still
does not fsync). Needs Debian's package `kannel`.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from benchmark.generator import Generator

_READY_WITHIN_S = 30.0
_CORE = """
group = core
admin-port = {admin}
admin-password = bench
admin-interface = 127.0.0.1
smsbox-port = {smsbox}
smsbox-interface = 127.0.0.1
log-file = {directory}/bearerbox.log
log-level = 2
box-allow-ip = 127.0.0.1

group = smsbox
bearerbox-host = 127.0.0.1
log-file = {directory}/smsbox.log
log-level = 2

group = sms-service
keyword = default
text = "taken"
max-messages = 0
"""
_LINK = """
group = smsc
smsc = smpp
smsc-id = link{number}
host = 127.0.0.1
receive-port = {port}
smsc-username = kmp
smsc-password = labpass1
system-type = VMA
enquire-link-interval = 100000
"""


@contextmanager
def started(directory: Path, generator: Generator, links: int) -> Iterator[int]:
    """Run Kannel with so many links to `generator`, as receivers; the process of its bearerbox."""
    for program in ("bearerbox", "smsbox"):
        if shutil.which(program, path="/usr/sbin:/usr/bin") is None:
            raise SystemExit(f"bench: there is no {program}: apt-get install kannel")
    directory.mkdir(exist_ok=True)
    configuration = directory / "kannel.conf"
    admin = _free_port()
    text = _CORE.format(admin=admin, smsbox=_free_port(), directory=directory)
    configuration.write_text(
        text + "".join(_LINK.format(number=number, port=generator.port) for number in range(links))
    )
    bearerbox = subprocess.Popen(["/usr/sbin/bearerbox", configuration], stderr=subprocess.DEVNULL)
    smsbox = None
    try:
        generator.accept(links)
        smsbox = subprocess.Popen(["/usr/sbin/smsbox", configuration], stderr=subprocess.DEVNULL)
        _await_smsbox(admin)
        yield bearerbox.pid
    finally:
        generator.hang_up()
        for process in (smsbox, bearerbox):
            if process is not None:
                process.kill()
                process.wait()


def _await_smsbox(admin: int) -> None:
    """Until it is connected, bearerbox refuses messages."""
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        with urlopen(f"http://127.0.0.1:{admin}/status.txt?password=bench") as status:
            if b"smsbox:" in status.read():
                return
        time.sleep(0.1)
    raise SystemExit(f"bench: Kannel's smsbox did not connect within {_READY_WITHIN_S:g} s")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])
