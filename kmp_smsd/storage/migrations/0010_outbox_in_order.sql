-- Rows of the outbox lie in the order in which they were first wanted, not by subscriber: those that a platform confirms
-- together lie together, and a confirmation writes no page of its own.
DROP TRIGGER one_binding_per_place;
DROP VIEW bound;
ALTER TABLE outbox RENAME TO outbox_by_place;
DROP INDEX outbox_due;
DROP INDEX outbox_rejected;

-- Desired state: what each platform is to hold for an MDN + app. Due while wanted differs from confirmed and rejected.
-- The subscriber comes first among what is unique, because versions are taken over all platforms of one MDN + app.
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY,
  subscriber INTEGER NOT NULL,
  app TEXT NOT NULL,
  platform TEXT NOT NULL,         -- '': no platform is configured for the app yet
  key INTEGER,                    -- NULL: nothing is wanted
  wanted_version INTEGER NOT NULL,
  confirmed_version INTEGER NOT NULL DEFAULT 0,
  rejected_version INTEGER NOT NULL DEFAULT 0,
  wanted_at INTEGER NOT NULL,
  try_at INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  error TEXT,
  UNIQUE (subscriber, app, platform)
) STRICT;
INSERT INTO outbox (subscriber, app, platform, key, wanted_version, confirmed_version, rejected_version, wanted_at,
  try_at, attempts, error)
SELECT subscriber, app, platform, key, wanted_version, confirmed_version, rejected_version, wanted_at, try_at, attempts,
  error
FROM outbox_by_place;
DROP TABLE outbox_by_place;
CREATE INDEX outbox_due ON outbox (platform, try_at)
  WHERE wanted_version <> confirmed_version AND wanted_version <> rejected_version;
CREATE INDEX outbox_rejected ON outbox (id) WHERE wanted_version = rejected_version;

-- As before: they would have followed the table to its other name.
CREATE VIEW bound AS
SELECT b.id, b.key, o.subscriber, o.app, b.received_at, b.bound_at
FROM outbox o CROSS JOIN bindings b
  ON b.key = o.key AND b.state = 'bound' AND b.subscriber = o.subscriber AND b.app = o.app;
CREATE TRIGGER one_binding_per_place BEFORE INSERT ON bindings
WHEN NEW.state = 'bound' AND EXISTS (SELECT 1 FROM bound WHERE subscriber = NEW.subscriber AND app = NEW.app)
BEGIN
  SELECT RAISE(ABORT, 'another key is bound at this subscriber and app');
END;
