"""Secrets are read when they are needed, from where the configuration says; never before, and never twice kept."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.link import Link
from kmp_smsd.config.models import Secrets

SECRET_OCTETS_MAX = 65_536  # an SSH key with its comment has about 3,000
CREDENTIALS = Path("/etc/kmp-smsd/credentials")  # where our units load them from
CREDENTIAL_DIRECTORIES = ("smsc", "ssh", "tls")  # there: the file smsc/NAME is the credential smsc_NAME
NO_FILE = b"<missing>"  # SetCredential= of our units: what they get where LoadCredential= finds no file
SMPP_PASSWORD_MAX = 8  # characters; SMPP 3.4, section 5.2.2, counts the final NUL: 9 octets


class SecretUnavailable(Exception):
    """A secret cannot be read, or not be used; the text says what to do. The service exits 77."""


class PasswordUnfit(SecretUnavailable):
    """A password was read, and is not fit for a bind as it is."""


def read_secret(ref: SecretRef) -> bytes:
    """The secret that `ref` points to, without the newline at its end.

    Raises SecretUnavailable.
    """
    path = _path(ref)
    try:
        with open(path, "rb", opener=open_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            refuse_no_file(path, mode)
            # systemd guards its own directory, on some versions by an access list that the mode does not show.
            if ref.file is not None:
                refuse_open(path, mode)
            secret = file.read(SECRET_OCTETS_MAX + 1)
    except OSError as error:
        reason = error.strerror or "cannot be read"
        if ref.credential is not None:
            raise SecretUnavailable(f"credential {ref.credential}: {reason}: {_remedy(ref.credential)}") from None
        raise SecretUnavailable(f"{path}: {reason}: it must be a file that this service's user can read") from None
    if ref.credential is not None and secret == NO_FILE:
        raise SecretUnavailable(
            f"credential {ref.credential}: no file when the unit started: {_remedy(ref.credential)}"
        )
    if len(secret) > SECRET_OCTETS_MAX:
        raise SecretUnavailable(f"{path} is longer than {SECRET_OCTETS_MAX} octets: not a secret")
    return secret.removesuffix(b"\n").removesuffix(b"\r")


def refuse_no_file(path: Path, mode: int) -> None:
    """Raises SecretUnavailable where no secret can be read from what is there, such as a directory."""
    if not stat.S_ISREG(mode):
        raise SecretUnavailable(f"{path} is {'a directory' if stat.S_ISDIR(mode) else 'not a file'}")


def refuse_open(path: Path, mode: int) -> None:
    """Raises SecretUnavailable where others than its owner and its group may use the file, or its group change it."""
    if mode & (stat.S_IWGRP | stat.S_IRWXO):
        raise SecretUnavailable(f"{path} is open to other users: chmod g-w,o= {path}")


def _remedy(credential: str) -> str:
    """Where our units look for it; others have to be told. ``smsc_north`` is the file north of the directory smsc."""
    directory, _, name = credential.partition("_")
    if name and directory in CREDENTIAL_DIRECTORIES:
        return f"put it into {CREDENTIALS}/{directory}/{name} and restart"
    if credential == "ssh-identity":
        return f"put it into {CREDENTIALS}/{credential} and restart"
    if credential == "master-key":
        return (
            f"`kmp-smsd master-key create` makes {CREDENTIALS}/{credential}, or put it back there, or where a drop-in"
            " of the unit loads it from, and restart"
        )
    return f"the unit needs LoadCredential={credential}:{CREDENTIALS}/{credential}"


def read_password(link: Link) -> str:
    """The password of `link`, fit for a bind.

    Raises SecretUnavailable; PasswordUnfit where it could be read.
    """
    secret = read_secret(link.password)
    credential = link.password.credential
    where = credential or link.password.file
    if not secret and not link.allow_empty_password:  # rather than lose a good link to an SMSC that refuses it
        remedy = _remedy(credential) if credential else "write the one that the SMSC issued into it"
        raise PasswordUnfit(
            f"the password in {where} is empty: {remedy}; if the SMSC wants none, set allow_empty_password = true"
        )
    if not all(0x20 <= octet < 0x7F for octet in secret):
        raise PasswordUnfit(
            f"the password in {where} has octets that are not printable ASCII: write it alone on one line"
        )
    if len(secret) > SMPP_PASSWORD_MAX and not link.allow_long_password:
        raise PasswordUnfit(
            f"the password in {where} is longer than SMPP's {SMPP_PASSWORD_MAX} characters: "
            "if the SMSC issued it so, set allow_long_password = true"
        )
    return secret.decode("ascii")


def platform_identity(own: SecretRef | None, secrets: Secrets) -> SecretRef:
    """Where that is found by which a platform knows us: its `own`, else the SSH key for all platforms.

    Raises SecretUnavailable where there is neither.
    """
    found = own or secrets.ssh_identity
    if found is None:
        raise SecretUnavailable("[secrets] ssh_identity is missing")
    return found


def credentials_directory() -> str | None:
    """Where systemd put the credentials of this unit; None outside one. Empty, it would name the present directory."""
    return os.environ.get("CREDENTIALS_DIRECTORY") or None


def open_without_waiting(path: str, flags: int) -> int:
    """For open(opener=...): a FIFO nobody writes to must not hold the service up for ever."""
    return os.open(path, flags | os.O_NONBLOCK)


def _path(ref: SecretRef) -> Path:
    if ref.file is not None:
        return ref.file
    directory = credentials_directory()
    if directory is None:
        raise SecretUnavailable(
            f"credential {ref.credential}: $CREDENTIALS_DIRECTORY is not set: start the service with systemd, "
            'or name a file: {file = "/PATH"}'
        )
    return Path(directory, str(ref.credential))
