"""Run inside a role's sandbox: tries what a stolen role would try, and prints what came of each as JSON."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STATE, CREDENTIALS = Path("/var/lib/kmp-smsd"), Path(os.environ["CREDENTIALS_DIRECTORY"])
OTHERS = Path(f"/run/credentials/{sys.argv[1]}")
NAMESPACE_OF_USERS = 0x10000000  # CLONE_NEWUSER


def drop(source: str, name: str) -> str:
    copy = STATE / name
    shutil.copy(source, copy)
    copy.chmod(0o755)
    return str(copy)


def write(path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write("x")
    os.unlink(path)


def connect() -> None:
    with socket.create_connection(("127.0.0.1", 2775), timeout=5):
        pass


def unshare() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(NAMESPACE_OF_USERS) != 0:
        raise OSError(ctypes.get_errno(), "unshare")


def see_processes_of_others() -> None:
    if not [one for one in os.listdir("/proc") if one.isdecimal() and os.stat(f"/proc/{one}").st_uid != os.geteuid()]:
        raise OSError("none")


def find_writable_mount() -> None:
    """What only owners and modes would protect; the program has to be on one that can be executed."""
    if all(os.statvfs(path).f_flag & os.ST_RDONLY for path in ("/", "/etc", "/etc/kmp-smsd", "/run", "/usr", "/var")):
        raise OSError("none")


ATTEMPTS: dict[str, Callable[[], object]] = {
    "run a dropped file": lambda: subprocess.run([drop("/bin/true", "dropped")], check=True),
    "run a shell": lambda: subprocess.run(["/bin/sh", "-c", ":"], check=True),
    "load a dropped library": lambda: ctypes.CDLL(drop(sys.argv[2], "dropped.so")),
    "make memory writable and executable": lambda: mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC),
    "see the other role's credentials": lambda: os.listdir(OTHERS),
    "read the other role's secret": lambda: (OTHERS / sys.argv[3]).read_bytes(),
    "read the files of the secrets": lambda: os.listdir("/etc/kmp-smsd/credentials"),
    "write the configuration": lambda: write("/etc/kmp-smsd/x"),
    "find a writable mount": find_writable_mount,
    "write the program": lambda: write("/opt/kmp-smsd/x"),
    "write another service's state": lambda: write("/var/lib/x"),
    "write the home of root": lambda: write("/root/x"),
    "see processes of others": see_processes_of_others,
    "open a raw socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close(),
    "ask the kernel about routes": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW).close(),
    "make a namespace": unshare,
    "become root": lambda: os.setuid(0),
    # What has to work, so that the rest is not denied for a reason of its own:
    "read its own secret": lambda: (CREDENTIALS / sys.argv[4]).read_bytes(),
    "read the configuration": lambda: open("/etc/kmp-smsd/kmp-smsd.toml", "rb").close(),
    "write its state": lambda: write("/var/lib/kmp-smsd/x"),
    "write beside the control socket": lambda: write("/run/kmp-smsd/x"),
    "connect": connect,
}


def outcome(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except (OSError, subprocess.SubprocessError) as error:
        return f"denied: {error}"
    return "done"


print(json.dumps({name: outcome(attempt) for name, attempt in ATTEMPTS.items()}))
