"""Keys at rest: seal, wrap, unwrap, check values, receipts, the master key."""
