"""A platform behind the machine's own OpenSSH server, on a loopback port, as the current user."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import threading
from collections import deque
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from kmp_smsd.simulator.ports import ReservedPort

STARTED_WITHIN_S = 20.0
LISTENING = "Server listening on"
PRIVILEGE_SEPARATION = Path("/run/sshd")  # compiled in; only asked for when started by root


def find_sshd() -> str | None:
    """Where this machine's OpenSSH server is, if it has one."""
    return shutil.which("sshd", path=os.environ.get("PATH", "") + os.pathsep + "/usr/sbin")


def is_usable() -> bool:
    """Whether an OpensshServer can be had here: it needs one installed, and a user with a name to log in as.

    And with a shell that runs commands: those of services have nologin(8).
    """
    return find_sshd() is not None and _user() is not None and _has_shell()


def new_identity() -> tuple[bytes, str]:
    """A new ed25519 key: the private half as OpenSSH writes it, and the public line."""
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return private, public.decode()


class OpensshServer:
    """One sshd with its files in `directory`; the one authorized key `public` may run `command` and nothing else.

    `address` is for `hosts` of a platform file, `host_key` for `host_keys`, `user` to log in as. Raises RuntimeError
    where the current user has no name.
    """

    def __init__(self, directory: Path, command: str, public: str) -> None:
        user = _user()
        if user is None:
            raise RuntimeError(f"uid {os.geteuid()} has no name to log in with at sshd: give it one in /etc/passwd")
        self.directory = directory
        self.user = user
        self.public = public
        private, self.host_key = new_identity()
        self._reserved: ReservedPort | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: deque[str] = deque(maxlen=100_000)
        self._logged = threading.Condition()
        self._ended = False
        directory.mkdir(parents=True, exist_ok=True)
        self._file("host_key", private)
        self.command(command)

    def command(self, command: str) -> None:
        """Force `command` from the next connection on."""
        quoted = command.replace('"', '\\"')
        self._file("authorized_keys", f'restrict,command="{quoted}" {self.public}\n'.encode())

    @property
    def port(self) -> int:
        """Where it listens; 0 before its first start."""
        return 0 if self._reserved is None else self._reserved.number

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        """What the server has said since its start, at LogLevel DEBUG1."""
        with self._logged:
            return "".join(self._log)

    def start(self) -> None:
        """Start listening; after a stop on the same port."""
        if os.geteuid() == 0:
            PRIVILEGE_SEPARATION.mkdir(mode=0o755, exist_ok=True)
        if self._reserved is None:
            self._reserved = ReservedPort()
        self._listen(self._reserved.number)

    def stop(self) -> None:
        """End the listener and all of its sessions, as a host that goes down."""
        if self._process is None:
            return
        self._process.send_signal(signal.SIGSTOP)  # it takes no further connection
        self.kill_sessions()
        self._process.kill()
        self._process.wait()
        assert self._process.stderr is not None
        self._reader.join()
        self._process.stderr.close()
        self._process = None

    def restart(self) -> None:
        self.stop()
        self.start()

    def kill_sessions(self) -> None:
        """SIGKILL to every process behind a connection: sshd's own and what it runs."""
        if self._process is not None:
            _kill(_halted(self._process.pid))

    def receivers(self, name: str = "kmp-receive") -> list[int]:
        """Process IDs of the commands in whose command line is `name`, without the shells that started them."""
        if self._process is None:
            return []
        return [
            pid
            for pid in _descendants(self._process.pid)
            if any(name in word for word in _words(pid)[1:3]) and "-c" not in _words(pid)[1:2]
        ]

    def kill_receivers(self) -> int:
        """SIGKILL to every running receiver; how many there were."""
        return _kill(self.receivers())

    def wait_for_log(self, *texts: str) -> bool:
        """Wait until the server has said one of `texts`; whether it has."""

        def said() -> bool:
            return any(text in line for line in self._log for text in texts)

        with self._logged:
            self._logged.wait_for(lambda: self._ended or said(), STARTED_WITHIN_S)
            return said()

    def _listen(self, port: int) -> None:
        sshd = find_sshd()
        if sshd is None:
            raise RuntimeError("no sshd on this machine")
        # Under sshd bash reads the user's ~/.bashrc, unless it takes itself for a shell's shell (SHLVL): what may stand
        # there is slow, and is not to be killed half done.
        config = self._file(
            "sshd_config",
            f"""Port {port}
ListenAddress 127.0.0.1
HostKey {self.directory}/host_key
AuthorizedKeysFile {self.directory}/authorized_keys
PidFile none
StrictModes no
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
SetEnv SHLVL=2
MaxStartups 1000
LogLevel DEBUG1
""".encode(),
        )
        self._log.clear()
        self._ended = False
        self._process = subprocess.Popen(
            [sshd, "-D", "-e", "-f", str(config)], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()
        if not self.wait_for_log(LISTENING) or self._process.poll() is not None:
            self.stop()
            raise RuntimeError(f"sshd does not start: {self.log[-2000:]}")

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            with self._logged:
                self._log.append(line.decode("utf-8", "replace"))
                self._logged.notify_all()
        with self._logged:
            self._ended = True
            self._logged.notify_all()

    def _file(self, name: str, content: bytes) -> Path:
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)
        return path


def _user() -> str | None:
    """The current user's name; a container's user need not have one."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return None


def _has_shell() -> bool:
    """Whether the current user's shell, by which sshd runs a command, runs any."""
    shell = pwd.getpwuid(os.geteuid()).pw_shell or "/bin/sh"
    try:
        return subprocess.run([shell, "-c", "exit 0"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it ended meanwhile
            children.setdefault(parent, []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found[1:]


def _halted(pid: int) -> list[int]:
    """The descendants of a process, all of them stopped: none can leave behind a child that nobody finds any more."""
    halted: list[int] = []
    while fresh := [one for one in _descendants(pid) if one not in halted]:
        _signal(fresh, signal.SIGSTOP)
        halted += fresh
    return halted


def _kill(pids: list[int]) -> int:
    """SIGKILL to each; how many there were."""
    return _signal(pids, signal.SIGKILL)


def _signal(pids: list[int], number: int) -> int:
    reached = 0
    for pid in pids:
        try:
            os.kill(pid, number)
            reached += 1
        except ProcessLookupError:
            continue
    return reached
