"""kmp-receive as it is installed, for the platforms of a lab."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def receiver_path() -> Path:
    """Where kmp-receive is: beside the interpreter where the package is installed. Raises RuntimeError."""
    found = shutil.which("kmp-receive", path=str(Path(sys.executable).parent))
    if found is None:
        raise RuntimeError("kmp-receive is not installed beside this Python: pip install kmp-smsd")
    return Path(found)


def receiver_command(store: Path) -> list[str]:
    """The command of a kmp-receive on `store`, which is made where there is none.

    Raises RuntimeError with the sentence of kmp-receive where it cannot be made, or where there is no kmp-receive.
    """
    command = [sys.executable, str(receiver_path()), "--store", str(store)]
    if not store.exists():
        made = subprocess.run([*command, "init"], stderr=subprocess.PIPE, encoding="utf-8")
        if made.returncode:
            raise RuntimeError(made.stderr.strip() or f"kmp-receive could not make {store}: {made.returncode}")
    return command
