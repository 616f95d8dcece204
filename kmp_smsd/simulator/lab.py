"""A whole installation in one directory: configuration, database, SMSC, platforms, and the roles as processes.

The demo, the end-to-end tests and the benchmark stand on it. It knows the product only as its users do: by its
configuration files and its commands.
"""

from __future__ import annotations

import json
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from kmp_smsd.simulator.openssh import OpensshServer, is_usable, new_identity
from kmp_smsd.simulator.platform import SimulatedPlatform
from kmp_smsd.simulator.receiver import receiver_command
from kmp_smsd.simulator.server import SmscServer
from kmp_smsd.simulator.smsc import SmscSettings
from kmp_smsd.simulator.toml import write_toml

SHORT_CODE = "10690000"
SMPP_PASSWORD = "labpass1"
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 30.0
POLL_S = 0.02
_ENDING_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # what ends our session does not reach theirs
DIRECTORY_MODE = 0o755  # where others could write into it, whatever the umask, the configuration would be refused


@dataclass(slots=True)
class LabPlatform:
    """One platform: its SSH server, and the store of its kmp-receive."""

    name: str
    apps: tuple[str, ...]
    server: OpensshServer | SimulatedPlatform
    store: Path
    enabled: bool = True

    def holds(self) -> list[dict[str, Any]]:
        """What the platform says that it holds, by kmp-receive itself: KCVs instead of keys, no tombstones."""
        listing = subprocess.run(
            [*receiver_command(self.store), "list", "--json"], check=True, capture_output=True, text=True
        )
        return [row for line in listing.stdout.splitlines() if (row := json.loads(line))["key_id"]]


@dataclass(slots=True)
class Role:
    """A running role, and what it has said."""

    name: str
    process: subprocess.Popen[str]
    said: list[str] = field(default_factory=list)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.kill()
            raise RuntimeError(f"{self.name} did not stop within {STOP_WITHIN_S:g} s") from None


class Lab:
    """Everything that one carrier has. Listens on loopback only, on ports that the kernel chose."""

    def __init__(
        self,
        directory: Path,
        platforms: Mapping[str, Iterable[str]],
        *,
        smsc: SmscSettings | None = None,
        sync: Mapping[str, Any] | None = None,
        link: Mapping[str, Any] | None = None,
        channel: Mapping[str, Any] | None = None,
        numbering: Mapping[str, Any] | None = None,
        monitoring: Mapping[str, str] | None = None,
        openssh: bool | None = None,
    ) -> None:
        """`sync`, `link`, `channel`, `numbering` and `monitoring` are further options of those sections.

        `openssh` None: where it can be used.
        """
        self.directory = directory
        self.config = directory / "kmp-smsd.toml"
        self.database = directory / "kmp-smsd.db"
        self.control = directory / "control"
        self.smsc = SmscServer(smsc or SmscSettings(system_id="kmp", password=SMPP_PASSWORD))
        self.openssh = is_usable() if openssh is None else openssh
        self._public = ""  # our SSH key's half for the platforms
        self.platforms: dict[str, LabPlatform] = {}
        self.roles: list[Role] = []
        self._sync, self._link, self._channel = dict(sync or {}), dict(link or {}), dict(channel or {})
        self._numbering, self._monitoring = dict(numbering or {}), dict(monitoring or {})
        self.links = 1  # to the SMSC, as `write_config` makes them
        self._apps = {name: tuple(apps) for name, apps in platforms.items()}

    def __enter__(self) -> Lab:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start SMSC and platforms, write the configuration, make master key and database. All or nothing runs then."""
        try:
            self._start()
        except BaseException:  # an interrupt too: no server may be left running
            self.close()
            raise

    def _start(self) -> None:
        self.directory.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
        self.control.mkdir(mode=0o700, exist_ok=True)
        self.smsc.start()
        identity, self._public = new_identity()
        self._secret("ssh-identity", identity)
        self._secret("smsc-password", SMPP_PASSWORD.encode())
        for name, apps in self._apps.items():
            self.add_platform(name, apps)
        self.write_config()
        self.prepare()

    def prepare(self) -> None:
        """Make master key and database."""
        self.command("master-key", "create", "--private", str(self.directory / "master.key"))
        self.command("db", "migrate")

    def close(self) -> None:
        """Stop all of it; the files stay."""
        for role in self.roles:
            if role.process.poll() is None:
                role.kill()
        self.smsc.stop()
        for platform in self.platforms.values():
            platform.server.stop()

    def add_platform(self, name: str, apps: Iterable[str]) -> None:
        """Start one more platform, where our SSH key may log in; its file is written by `write_config`."""
        store = self.directory / f"{name}.held"
        command = receiver_command(store)
        server = (
            OpensshServer(self.directory / f"{name}.sshd", shlex.join(command), self._public)
            if self.openssh
            else SimulatedPlatform(command, self._public)
        )
        self.platforms[name] = LabPlatform(name, tuple(apps), server, store)
        server.start()

    def write_config(self) -> None:
        """Write kmp-smsd.toml and platforms.d as they are now."""
        link = {
            "hosts": [f"127.0.0.1:{self.smsc.port}"],
            "system_id": "kmp",
            "password": {"file": str(self.directory / "smsc-password")},
            "reconnect_min_s": 0.1,
            "reconnect_max_s": 1.0,
            **self._link,
        }
        main = {
            "storage": {"path": str(self.database)},
            "secrets": {
                "public_key": "master.pub",
                "master_key": {"file": str(self.directory / "master.key")},
                "ssh_identity": {"file": str(self.directory / "ssh-identity")},
            },
            "control": {"directory": str(self.control)},
            "monitoring": self._monitoring,
            "numbering": {
                "country_code": "86",
                "ranges": [{"prefix": "8613", "digits": 13, "name": "mobile"}],
                **self._numbering,
            },
            "sync": {"short_codes": [SHORT_CODE], **self._sync},
            "smsc": {"lab" if number == 0 else f"lab-{number}": link for number in range(self.links)},
        }
        write_toml(self.config, main)
        platforms = self.directory / "platforms.d"
        platforms.mkdir(mode=DIRECTORY_MODE, exist_ok=True)
        for name, platform in self.platforms.items():
            channel = {
                "kind": "ssh",
                "hosts": [platform.server.address],
                "user": platform.server.user,
                "host_keys": [platform.server.host_key],
                **self._channel,
            }
            apps = list(platform.apps)
            file = {
                "enabled": platform.enabled,
                "apps": apps,
                "retry_min_s": 0.1,
                "retry_max_s": 1.0,
                "channel": channel,
            }
            write_toml(platforms / f"{name}.toml", file)

    def command(self, *words: str, check: bool = True, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run one `kmp-smsd` command. Raises RuntimeError with what it said where it failed and `check` is set."""
        done = subprocess.run(self.words(*words), capture_output=True, text=True, input=stdin, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"kmp-smsd {' '.join(words)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return done

    def listing(self, *words: str) -> list[dict[str, Any]]:
        """The rows of a listing command with --json."""
        return [json.loads(line) for line in self.command(*words, "--json").stdout.splitlines()]

    def start_role(self, name: str, *options: str) -> Role:
        """Start a role and wait until it can be asked; where it takes messages, until it is bound to our SMSC too."""
        role = self.start_role_unbound(name, *options)
        self.wait_for(lambda: self._answers(name) or role.process.poll() is not None, "the daemon to start")
        if name != "dispatch":
            self.wait_for(lambda: self.smsc.bound > 0 or role.process.poll() is not None, "the daemon to bind")
        if role.process.poll() is not None:
            raise RuntimeError(f"{name} ended with {role.process.returncode}: {''.join(role.said)}")
        return role

    def start_role_unbound(self, name: str, *options: str) -> Role:
        """Start a role and wait for nothing: its SMSC is another one, or not up."""
        process = subprocess.Popen(
            [*_ENDING_WITH_US, *self.words(name, *options)],
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            start_new_session=True,  # as systemd does: Linux shares processors out among sessions; and a ^C is for us
        )
        role = Role(name, process)
        threading.Thread(target=_listen, args=(role,), daemon=True).start()
        self.roles.append(role)
        return role

    def wait_for(self, condition: Callable[[], bool], what: str, within_s: float = READY_WITHIN_S) -> None:
        """Wait until `condition` holds; raises TimeoutError that names `what`."""
        pause = threading.Event()
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {within_s:g} s for {what}")
            pause.wait(POLL_S)

    def all_settled(self) -> bool:
        """Whether the roles that run have decided every message that they answered."""
        said = self.command("status", "--json", check=False).stdout.splitlines()
        return not any(json.loads(line).get("unsettled") for line in said)

    def nothing_due(self) -> bool:
        """Whether every message is decided, and every delivery that has a platform is confirmed or rejected."""
        if not self.all_settled():
            return False
        return all(row["due"] == 0 for row in self.listing("platforms", "list") if row["platform"])

    def words(self, *words: str) -> list[str]:
        """The command line of a `kmp-smsd` command on this configuration."""
        return [sys.executable, "-m", "kmp_smsd", "--config", str(self.config), *words]

    def _answers(self, name: str) -> bool:
        """Whether somebody listens at a role's control socket."""
        with closing(socket.socket(socket.AF_UNIX)) as connection:
            return connection.connect_ex(str(self.control / f"{'dispatch' if name == 'run' else name}.sock")) == 0

    def _secret(self, name: str, content: bytes) -> None:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def _listen(role: Role) -> None:
    assert role.process.stderr is not None
    with role.process.stderr as lines:
        for line in lines:
            role.said.append(line)
