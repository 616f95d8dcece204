-- The tables of the main job. Times are Unix milliseconds, UTC. Subscribers, keys and bindings are integers everywhere;
-- one table each knows their names. `bindings`, `outbox` and `journal` have no foreign keys: their numbers were read in
-- the same transaction, from tables that only blank a row and never delete it, and a second check costs intake dearly.

CREATE TABLE store (              -- one row: what this database belongs to
  one INTEGER PRIMARY KEY CHECK (one = 1),
  master_key TEXT,                -- fingerprint of the public half to which every data key is sealed
  erase_log INTEGER NOT NULL DEFAULT 0          -- so often was erased what files may still hold; 0: in none any more
) STRICT;
INSERT INTO store (one) VALUES (1);

CREATE TABLE data_keys (
  id TEXT PRIMARY KEY,
  sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE imports (
  id INTEGER PRIMARY KEY,
  vendor TEXT NOT NULL,
  file_name TEXT NOT NULL,
  digest TEXT NOT NULL,           -- SHA-256 of the file, hex
  data_key TEXT NOT NULL REFERENCES data_keys (id),
  started_at INTEGER NOT NULL,
  live_at INTEGER                 -- NULL: staged; its keys do not exist yet
) STRICT;

CREATE TABLE keys (
  id INTEGER PRIMARY KEY,
  key_id TEXT NOT NULL UNIQUE,    -- over all vendors: the SMS names no vendor
  import INTEGER NOT NULL REFERENCES imports (id),
  serial TEXT,                    -- of the terminal, unique per vendor
  app TEXT,                       -- the app it is reserved for
  algorithm TEXT NOT NULL,
  kcv TEXT NOT NULL,
  nonce BLOB,                     -- NULL once destroyed
  ciphertext BLOB,
  valid_from INTEGER,
  valid_until INTEGER,
  -- live: pre-active until its first binding, active from then on; which of the two is read off `bindings`
  state TEXT NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'suspended', 'deactivated', 'compromised', 'destroyed')),
  reason TEXT
) STRICT;
CREATE INDEX keys_of_terminal ON keys (serial, state, import) WHERE serial IS NOT NULL;
CREATE INDEX keys_of_import ON keys (import);

CREATE TABLE subscribers (
  number INTEGER PRIMARY KEY,
  mdn TEXT UNIQUE,                -- NULL once erased
  last_heard INTEGER NOT NULL     -- kept for numbers without a registration only
) STRICT;

CREATE TABLE registrations (
  subscriber INTEGER NOT NULL REFERENCES subscribers (number),
  app TEXT NOT NULL,
  registered_at INTEGER NOT NULL,
  PRIMARY KEY (subscriber, app)
) STRICT, WITHOUT ROWID;

CREATE TABLE bindings (
  id INTEGER PRIMARY KEY,
  key INTEGER NOT NULL,
  subscriber INTEGER NOT NULL,
  app TEXT NOT NULL,
  state TEXT NOT NULL CHECK (state IN ('bound', 'superseded', 'withdrawn')),
  received_at INTEGER NOT NULL,
  bound_at INTEGER NOT NULL,
  ended_at INTEGER,
  why TEXT,                       -- why it ended
  CHECK ((state = 'bound') = (ended_at IS NULL))
) STRICT;
CREATE UNIQUE INDEX one_binding_per_key ON bindings (key) WHERE state = 'bound';
CREATE INDEX ended_bindings ON bindings (key, subscriber, app) WHERE state <> 'bound';
CREATE INDEX ended_bindings_of_subscriber ON bindings (subscriber) WHERE state <> 'bound';

CREATE TABLE holds (
  id INTEGER PRIMARY KEY,
  key INTEGER NOT NULL REFERENCES keys (id),
  subscriber INTEGER NOT NULL REFERENCES subscribers (number),
  app TEXT NOT NULL,
  link TEXT NOT NULL,
  received_at INTEGER NOT NULL,   -- of the last message
  first_at INTEGER NOT NULL,
  repeats INTEGER NOT NULL DEFAULT 0,
  why TEXT NOT NULL,
  elsewhere INTEGER REFERENCES bindings (id),   -- evidence: where the key was bound
  occupant INTEGER REFERENCES bindings (id),    -- evidence: what was bound here
  counter INTEGER,                -- evidence: the proof of possession as presented, not verified
  tag TEXT,
  state TEXT NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'refused', 'approved', 'closed')),
  by TEXT,                        -- who refused or approved
  settled_at INTEGER,
  last_outcome TEXT,              -- what came of the last approval
  marked INTEGER NOT NULL DEFAULT 0             -- approved: intake is to decide it again
) STRICT;
CREATE UNIQUE INDEX standing_holds ON holds (key, subscriber, app) WHERE state IN ('open', 'refused');
CREATE INDEX standing_holds_of_place ON holds (subscriber, app) WHERE state IN ('open', 'refused');
CREATE INDEX open_holds ON holds (id) WHERE state = 'open';
CREATE INDEX marked_holds ON holds (id) WHERE marked = 1;

CREATE TABLE routes (             -- written by dispatch alone
  app TEXT PRIMARY KEY,
  platform TEXT NOT NULL,
  moving INTEGER NOT NULL DEFAULT 0             -- 1 until every row of the app has followed
) STRICT, WITHOUT ROWID;

CREATE TABLE platforms (          -- what dispatch last saw of each
  name TEXT PRIMARY KEY,
  last_success_at INTEGER,
  last_error TEXT,
  last_error_at INTEGER,
  next_try_at INTEGER,
  paused INTEGER NOT NULL DEFAULT 0,
  hurried_at INTEGER              -- a person's wish: do not wait for next_try_at
) STRICT, WITHOUT ROWID;

-- Desired state: what each platform is to hold for an MDN + app. Due while wanted differs from confirmed and rejected.
-- The subscriber comes first in the key, because versions are taken over all platforms of one MDN + app.
CREATE TABLE outbox (
  subscriber INTEGER NOT NULL,
  app TEXT NOT NULL,
  platform TEXT NOT NULL,         -- '': no platform is configured for the app yet
  key INTEGER,             -- NULL: nothing is wanted
  wanted_version INTEGER NOT NULL,
  confirmed_version INTEGER NOT NULL DEFAULT 0,
  rejected_version INTEGER NOT NULL DEFAULT 0,
  wanted_at INTEGER NOT NULL,
  try_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  error TEXT,
  PRIMARY KEY (subscriber, app, platform)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_due ON outbox (platform, try_at)
  WHERE wanted_version <> confirmed_version AND wanted_version <> rejected_version;
CREATE INDEX outbox_rejected ON outbox (subscriber, app) WHERE wanted_version = rejected_version;

-- What is bound at a place is what is wanted there, at one platform: so a place is found by its row of the outbox. An
-- index of bindings by place would be one more page to write, of four, for each binding.
CREATE VIEW bound AS
SELECT b.id, b.key, o.subscriber, o.app, b.received_at, b.bound_at
FROM outbox o CROSS JOIN bindings b
  ON b.key = o.key AND b.state = 'bound' AND b.subscriber = o.subscriber AND b.app = o.app;

CREATE TRIGGER one_binding_per_place BEFORE INSERT ON bindings
WHEN NEW.state = 'bound' AND EXISTS (SELECT 1 FROM bound WHERE subscriber = NEW.subscriber AND app = NEW.app)
BEGIN
  SELECT RAISE(ABORT, 'another key is bound at this subscriber and app');
END;

CREATE TABLE journal (            -- insert-only
  id INTEGER PRIMARY KEY,
  at INTEGER NOT NULL,
  hour INTEGER NOT NULL,          -- of `at`, UTC, in hours since 1970
  subscriber INTEGER NOT NULL,
  outcome TEXT NOT NULL,
  link TEXT NOT NULL,
  key_id TEXT,
  app TEXT,
  why TEXT,
  hold INTEGER                    -- of a new hold
) STRICT;
-- bound, moved and new holds always have an entry; of everything else one per MDN, outcome and hour
CREATE UNIQUE INDEX journal_once_an_hour ON journal (hour, subscriber, outcome)
  WHERE outcome NOT IN ('bound', 'moved') AND hold IS NULL;

CREATE TABLE tallies (
  hour INTEGER NOT NULL,
  link TEXT NOT NULL,
  outcome TEXT NOT NULL,
  sender TEXT NOT NULL,           -- '' or, for senders that the journal does not name, first digits and length
  count INTEGER NOT NULL,
  PRIMARY KEY (hour, link, outcome, sender)
) STRICT, WITHOUT ROWID;
