"""What messages mean: pure functions on values."""
