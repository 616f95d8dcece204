-- Requests that came before what they need: intake decides them again when it arrives.

CREATE TABLE waiting (            -- the last request per MDN and key
  subscriber INTEGER NOT NULL REFERENCES subscribers (number),
  key_id TEXT NOT NULL,           -- not a key's number: the key may not be imported yet
  app TEXT,
  counter INTEGER,                -- the proof of possession as presented
  tag TEXT,
  link TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  outcome TEXT NOT NULL,          -- what it waits for
  again_at INTEGER,               -- from when on intake is to decide it again; 0: at once; NULL: nothing has changed yet
  PRIMARY KEY (subscriber, key_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX waiting_for_key ON waiting (key_id, received_at);
CREATE INDEX waiting_since ON waiting (received_at);
CREATE INDEX waiting_again ON waiting (again_at, received_at) WHERE again_at IS NOT NULL;

ALTER TABLE imports ADD COLUMN recalled INTEGER NOT NULL DEFAULT 0;  -- 1: who waited for its keys has been marked
CREATE INDEX imports_to_recall ON imports (id) WHERE recalled = 0;
