"""Secrets, as the role that needs them would read them, and the fingerprints of the master key."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.cli.gathering.files import look_at
from kmp_smsd.config.link import Link
from kmp_smsd.config.load import Config
from kmp_smsd.config.secrets import (
    CREDENTIAL_DIRECTORIES,
    CREDENTIALS,
    PasswordUnfit,
    SecretUnavailable,
    credentials_directory,
    read_password,
    read_secret,
    refuse_no_file,
    refuse_open,
)
from kmp_smsd.diagnosis.secrets import MasterKeyFacts, SecretFacts
from kmp_smsd.vault.master_key import MasterKey, MasterKeyFileFault, PublicKey


def here(ref: SecretRef) -> SecretRef:
    """Where a secret is found by whoever runs this: outside its unit, a credential is the file that the unit loads.

    So it is in another unit, too, where that was given some credentials and root runs it to look at them.
    """
    given = credentials_directory()
    if ref.credential is None or (given is not None and os.access(os.path.join(given, ref.credential), os.F_OK)):
        return ref
    paths = _files_of(ref.credential)
    found = next((path for path in paths if os.access(path, os.F_OK)), None)
    in_directory = ref.credential.startswith(tuple(f"{one}_" for one in CREDENTIAL_DIRECTORIES))
    if given is not None and found is None and _encrypted(ref.credential) is None:
        return ref
    return SecretRef(file=found or paths[in_directory])


def _files_of(credential: str) -> list[Path]:
    """Where a unit may load it from: LoadCredential= of a directory makes DIRECTORY_FILE of each file in it."""
    return [CREDENTIALS / credential, CREDENTIALS / credential.replace("_", "/", 1)]


def _encrypted(credential: str) -> str | None:
    """The file that a drop-in may have its unit load instead, and decrypt."""
    paths = (f"{path}.cred" for path in _files_of(credential))
    return next((path for path in paths if os.access(path, os.F_OK)), None)


def decrypting(ref: SecretRef) -> str:
    """How to run a command in a unit that decrypts this secret; '' where it does not lie encrypted, or is read here."""
    found = here(ref)
    if found.file is None or found == ref or os.path.lexists(found.file):
        return ""
    encrypted = _encrypted(str(ref.credential))
    return f"systemd-run --pty -p LoadCredentialEncrypted={ref.credential}:{encrypted}" if encrypted else ""


def unless_root(advice: str) -> str:
    """`advice` to become root, which root needs not."""
    return "" if os.geteuid() == 0 else advice


def is_closed_to_us(ref: SecretRef) -> bool:
    """Whether it is a credential whose unit this is not, and whose file we may not read: nothing is wrong with that."""
    found = here(ref)
    return found != ref and found.file is not None and not os.access(found.file, os.R_OK)


def secrets_of(config: Config, *, intake: bool, dispatch: bool) -> Iterator[SecretFacts]:
    """Each secret that these roles read."""
    if intake:
        for name, link in config.smsc.items():
            yield _secret(*_password(name, link), _password_of(link))
    if dispatch:
        for option, ref in _keys(config):
            yield _secret(option, ref, read_secret)
        if config.secrets.master_key is None:
            yield SecretFacts(option="[secrets] master_key", fault="is missing: dispatch needs the private half")


def unfit_passwords(config: Config) -> Iterator[str]:
    """Of each password that can be read here and is unfit for a bind, why; the others are for intake to tell."""
    for name, link in config.smsc.items():
        try:
            _password_of(link)(here(link.password))
        except PasswordUnfit as error:
            yield f"[smsc.{name}] {error}"
        except SecretUnavailable:
            continue


def unfit_files(config: Config) -> Iterator[tuple[str, bool]]:
    """Of each secret whose file is none or others may use, what is wrong, and whether the role refuses it so.

    It takes what its unit loads, whatever the mode of that. A file that cannot be looked at here is for the role to
    tell of, and what systemd provides in a unit is its own affair.
    """
    for option, ref in (*(_password(*link) for link in config.smsc.items()), *_keys(config)):
        path = here(ref).file
        if path is None or (file := look_at(path)).fault:
            continue
        try:
            refuse_no_file(path, file.mode)
            refuse_open(path, file.mode)
        except SecretUnavailable as error:
            yield f"{option}: {error}", ref.file is not None


def master_key_of(config: Config, in_database: str | None, *, dispatch: bool) -> MasterKeyFacts:
    """The fingerprints of both halves, as far as they can be read here; `in_database` is that of its keys."""
    public, public_fault = _fingerprint(lambda: PublicKey.load(config.secrets.public_key).fingerprint)
    private: str | None = None
    private_fault = ""
    ref = config.secrets.master_key
    if dispatch and ref is not None and not is_closed_to_us(ref):
        private, private_fault = _fingerprint(
            lambda: MasterKey.parse(read_secret(here(ref)), "[secrets] master_key").fingerprint
        )
    return MasterKeyFacts(
        public=public,
        public_fault=public_fault,
        private=private,
        private_fault=private_fault,
        database=in_database,
    )


def _password(name: str, link: Link) -> tuple[str, SecretRef]:
    return f"[smsc.{name}] password", link.password


def _keys(config: Config) -> Iterator[tuple[str, SecretRef]]:
    """The private keys that dispatch reads, by their options."""
    named: list[tuple[str, SecretRef | None]] = [
        ("[secrets] master_key", config.secrets.master_key),
        ("[secrets] ssh_identity", config.secrets.ssh_identity),
        *((f"[channel] identity of {name}", one.channel.identity) for name, one in config.platforms.items()),
    ]
    yield from ((option, ref) for option, ref in named if ref is not None)


def _password_of(link: Link) -> Callable[[SecretRef], str]:
    """What reads the password of `link` from elsewhere than where its role does."""
    return lambda ref: read_password(link.model_copy(update={"password": ref}))


def _secret(option: str, ref: SecretRef, read: Callable[[SecretRef], object]) -> SecretFacts:
    found = here(ref)
    loaded_from = None if found == ref or found.file is None else look_at(found.file)
    if loaded_from is not None and loaded_from.is_missing and (encrypted := _encrypted(str(ref.credential))):
        return SecretFacts(option=option, encrypted=encrypted)
    try:
        read(found)
    except PasswordUnfit as error:
        return SecretFacts(option=option, fault=str(error), loaded_from=loaded_from)
    except SecretUnavailable as error:  # of a file that a unit loads, owner and mode tell more
        return SecretFacts(option=option, fault="" if loaded_from else str(error), loaded_from=loaded_from)
    return SecretFacts(option=option, loaded_from=loaded_from)


def _fingerprint(read: Callable[[], str]) -> tuple[str | None, str]:
    try:
        return read(), ""
    except (SecretUnavailable, MasterKeyFileFault) as error:
        return None, str(error)
    except OSError as error:
        return None, f"{error.filename}: {error.strerror}"
