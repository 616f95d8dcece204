-- Exactly which messages of the inbox are settled. One last number would vouch for those of a file that somebody had moved
-- away when the ones behind it were settled, and brings back.
CREATE TABLE inbox_settled (
  id INTEGER PRIMARY KEY,         -- in the order in which they were begun
  run TEXT NOT NULL,
  first INTEGER NOT NULL,
  last INTEGER NOT NULL,
  UNIQUE (run, last)
) STRICT;
INSERT INTO inbox_settled (run, first, last) SELECT inbox_run, 1, inbox_settled FROM store WHERE inbox_settled > 0;
ALTER TABLE store DROP COLUMN inbox_run;
ALTER TABLE store DROP COLUMN inbox_settled;
