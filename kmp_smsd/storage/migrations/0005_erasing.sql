-- Subscribers that are erased, and platforms that are forgotten.

ALTER TABLE subscribers ADD COLUMN erasing_at INTEGER;  -- since when; blanked once its platforms have confirmed
CREATE INDEX subscribers_erasing ON subscribers (number) WHERE erasing_at IS NOT NULL;

ALTER TABLE platforms ADD COLUMN forgotten_at INTEGER;  -- a person's wish: dispatch drops what it has of this platform
