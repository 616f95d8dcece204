"""What every store must keep, whatever lies below it.

The tests see a store through its own interface only, and get it from the fixture `open_store`, which has a parameter
for each back end (tests/storage/conftest.py).
"""
