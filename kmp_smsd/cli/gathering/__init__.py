"""Facts for `doctor`, gathered at thin edges: each looks and asks, and judges nothing."""
