"""What is on disk, and the transactions that change it."""

from kmp_smsd.storage.errors import StoreBusy, StoreError, StoreUnavailable, StoreUnusable
from kmp_smsd.storage.store import Store, open_store

__all__ = ["Store", "StoreBusy", "StoreError", "StoreUnavailable", "StoreUnusable", "open_store"]
