"""``python -m kmp_smsd`` is the command ``kmp-smsd``."""

from kmp_smsd.cli import main

main()
