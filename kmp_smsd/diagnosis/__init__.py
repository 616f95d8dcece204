"""What is wrong and what to do about it: judgements on facts that others gathered. Nothing here reads or asks."""
