-- Requests of the carrier's business system, so that one that comes again is answered and not done again. What a
-- request said is kept as a digest only: it names subscribers.

CREATE TABLE requests (
  id TEXT PRIMARY KEY,            -- the business system's own
  digest BLOB NOT NULL,           -- SHA-256 of the whole request, in canonical JSON
  result TEXT NOT NULL,           -- what it was told, in JSON
  at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX requests_since ON requests (at);
