"""An SMSC, terminals and a platform for the demo, the tests and the lab."""
