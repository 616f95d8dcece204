"""What every store must keep, whatever lies below it: test_sqlite.py holds SQLite to it.

The tests use two fixtures: `open_store(policy, name=...)` and `store`, a fresh one with the default policy.
"""
