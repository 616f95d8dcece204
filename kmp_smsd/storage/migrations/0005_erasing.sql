-- Subscribers that are erased, and platforms that are forgotten.

ALTER TABLE subscribers ADD COLUMN erasing_at INTEGER;  -- since when; blanked once its platforms have confirmed
CREATE INDEX subscribers_erasing ON subscribers (number) WHERE erasing_at IS NOT NULL;

ALTER TABLE platforms ADD COLUMN forgotten_at INTEGER;  -- a person's wish: dispatch drops what it has of this platform

ALTER TABLE store ADD COLUMN cleared INTEGER NOT NULL DEFAULT 0;  -- so often was the file written beside SQLite
ALTER TABLE store ADD COLUMN blanked_version INTEGER NOT NULL DEFAULT 0;  -- the highest of all that went with a number
