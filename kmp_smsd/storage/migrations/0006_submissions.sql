-- Requests that did not come by SMS: a trusted gateway hands them in, intake decides them.

CREATE TABLE submissions (
  id INTEGER PRIMARY KEY AUTOINCREMENT,         -- whoever waits for an answer must not meet another one's
  subscriber INTEGER NOT NULL REFERENCES subscribers (number),
  key_id TEXT NOT NULL,
  app TEXT,
  counter INTEGER,                -- the proof of possession as presented
  tag TEXT,
  gateway TEXT NOT NULL,
  received_at INTEGER NOT NULL,
  outcome TEXT,                   -- NULL: intake has not decided it yet
  app_meant TEXT,                 -- the app that was meant, where that was clear
  why TEXT
) STRICT;
CREATE INDEX open_submissions ON submissions (id) WHERE outcome IS NULL;
CREATE INDEX submissions_of_subscriber ON submissions (subscriber);
