-- What terminals are told once their platform has their key. Written by intake alone.

CREATE TABLE replies (
  id INTEGER PRIMARY KEY AUTOINCREMENT,         -- an answer on its way must not meet another reply of its number
  subscriber INTEGER NOT NULL,
  app TEXT NOT NULL,
  key INTEGER NOT NULL,           -- due once the platform has confirmed it, and nothing else is wanted
  link TEXT NOT NULL,
  reply_to TEXT,                  -- JSON: addresses as received, and ports; NULL once it has ended
  wanted_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  state TEXT NOT NULL DEFAULT 'waiting'
    CHECK (state IN ('waiting', 'sending', 'sent', 'refused', 'unknown', 'expired')),
  sent_at INTEGER,                -- when it left; NULL again where the SMSC did not take it
  ended_at INTEGER,
  command_status INTEGER,         -- the SMSC's last word
  message_id TEXT,                -- the SMSC's
  CHECK ((reply_to IS NULL) = (state NOT IN ('waiting', 'sending')))
) STRICT;
CREATE UNIQUE INDEX replies_waiting ON replies (subscriber, app) WHERE state = 'waiting';
CREATE INDEX replies_waiting_of_link ON replies (link, id) WHERE state = 'waiting';
CREATE INDEX replies_to_expire ON replies (expires_at) WHERE state = 'waiting';
CREATE INDEX replies_sending ON replies (sent_at) WHERE state = 'sending';
CREATE INDEX replies_ended ON replies (ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX replies_of_subscriber ON replies (subscriber, sent_at);
CREATE INDEX replies_of_link ON replies (link, sent_at) WHERE sent_at IS NOT NULL;

ALTER TABLE waiting ADD COLUMN reply_to TEXT;  -- as in `replies`
ALTER TABLE holds ADD COLUMN reply_to TEXT;
-- A number as received stands in a hold no longer than somebody may approve it, whoever ends the hold.
CREATE TRIGGER ended_hold_is_not_replied_to AFTER UPDATE OF state ON holds
WHEN NEW.state <> 'open' AND NEW.reply_to IS NOT NULL
BEGIN
  UPDATE holds SET reply_to = NULL WHERE id = NEW.id;
END;
