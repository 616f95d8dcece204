"""Exit codes (sysexits, whose names systemd prints) and the sentences of what can go wrong."""

from __future__ import annotations

import os
import sys

import click

from kmp_smsd.domain.shown import shown

REFUSED = 1
USAGE = 64
UNAVAILABLE = 69  # a peer, or a role of ours, does not answer
BUG = 70
TEMPORARY = 75
NO_PERMISSION = 77  # or a secret
CONFIGURATION = 78
INTERRUPTED = 130  # as the shell counts SIGINT

SEE_WHERE = "--debug before the command shows where"


class Failed(click.ClickException):
    """The command did not do what was asked; the sentence says why and what to do."""

    def __init__(self, sentence: str, exit_code: int = REFUSED) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it for the class


def explain(error: Exception) -> tuple[int, str] | None:
    """The exit code and the sentence for an error of the rooms below; None where it is a bug.

    What was never imported cannot have been raised, so nothing is imported for it.
    """
    if (config := sys.modules.get("kmp_smsd.config.faults")) and isinstance(error, config.ConfigFaults):
        return NO_PERMISSION if error.forbidden else CONFIGURATION, str(error)
    if (config := sys.modules.get("kmp_smsd.config.secrets")) and isinstance(error, config.SecretUnavailable):
        return NO_PERMISSION, str(error)
    if (vault := sys.modules.get("kmp_smsd.vault.master_key")) and isinstance(
        error, vault.WrongMasterKey | vault.MasterKeyFileFault
    ):
        return NO_PERMISSION, str(error)
    if (storage := sys.modules.get("kmp_smsd.storage.errors")) and isinstance(error, storage.StoreError):
        if isinstance(error, storage.NotPossible):
            return REFUSED, str(error)
        if isinstance(error, storage.StoreUnusable):
            return CONFIGURATION, str(error)
        if isinstance(error.__cause__, PermissionError):
            code, sentence = forbidden(error.__cause__)
            return (
                code,
                f"{sentence}; a role needs owners and modes as 'systemd-tmpfiles --create kmp-smsd.conf' sets them",
            )
        damaged = isinstance(error, storage.StoreUnavailable) and error.is_damage
        return CONFIGURATION if damaged else TEMPORARY, str(error)
    if (sqlite := sys.modules.get("pysqlite3.dbapi2")) and isinstance(error, sqlite.DatabaseError):
        passing = isinstance(error, sqlite.OperationalError)
        return TEMPORARY if passing else CONFIGURATION, f"the database cannot be used: {error}: see [storage] path"
    if (role := sys.modules.get("kmp_smsd.service.intake_role")) and isinstance(error, role.NothingToDo):
        return CONFIGURATION, str(error)
    if (control := sys.modules.get("kmp_smsd.service.control_socket")) and isinstance(error, control.ControlUnusable):
        return error.exit_code, str(error)
    if (protocol := sys.modules.get("kmp_smsd.control.protocol")) and isinstance(error, protocol.Refused):
        return error.exit_code, str(error)
    if isinstance(error, PermissionError):
        return forbidden(error)
    if isinstance(error, OSError):
        if error.strerror is None:  # a sentence of ours
            return TEMPORARY, str(error)
        where = _where(error)
        return TEMPORARY, f"{where}{error.strerror}{'' if where else f': {SEE_WHERE}'}"
    if isinstance(error, MemoryError):
        return TEMPORARY, f"not enough memory: {SEE_WHERE}"
    if isinstance(error, UnicodeEncodeError) and error.reason == "surrogates not allowed":
        # Arguments were checked, so this comes from the environment or the working directory.
        return CONFIGURATION, f"'{shown(error.object)}' is not in UTF-8: give it another name"
    return None


def forbidden(error: PermissionError, *, root_alone: bool = False) -> tuple[int, str]:
    """The exit code and the sentence for who may not; `root_alone`: the service's group may not, either."""
    or_group = "" if root_alone else ", or as a member of the service's group"
    return NO_PERMISSION, f"{_where(error)}permission denied: run this as root{or_group}"


def _where(error: OSError) -> str:
    return f"{shown(os.fsdecode(error.filename))}: " if isinstance(error.filename, str | bytes) else ""
