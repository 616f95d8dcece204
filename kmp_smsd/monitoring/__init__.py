"""What a role shows of itself, as pure functions of its status snapshot: metrics and a page.

A snapshot is what `status --json` prints: a mapping of JSON values, times in Unix milliseconds, None for never.
"""
