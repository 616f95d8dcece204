-- Messages are answered once they are in the inbox (files beside the database) and settled after that: of those numbered
-- under this name, so many. What is there under another name is not settled.
ALTER TABLE store ADD COLUMN inbox_run TEXT NOT NULL DEFAULT '';
ALTER TABLE store ADD COLUMN inbox_settled INTEGER NOT NULL DEFAULT 0;
