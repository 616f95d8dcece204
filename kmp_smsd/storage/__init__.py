"""What is on disk, and the transactions that change it."""
