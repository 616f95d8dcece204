-- Messages are answered once they are in the inbox (files beside the database) and settled after that: up to this number.
ALTER TABLE store ADD COLUMN inbox_settled INTEGER NOT NULL DEFAULT 0;
