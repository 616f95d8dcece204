"""The encrypted roads to the platforms."""
