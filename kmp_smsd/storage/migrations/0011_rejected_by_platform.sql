-- Which platforms have rejected something, and how much, is asked every few seconds: each platform's rows lie together,
-- so that those of others are not read for it, however many they are.
DROP INDEX outbox_rejected;
CREATE INDEX outbox_rejected ON outbox (platform, id) WHERE wanted_version = rejected_version;
