-- How many keys an import has is counted as they are staged: to list imports takes as long however many keys there are.
ALTER TABLE imports ADD COLUMN keys INTEGER NOT NULL DEFAULT 0;
UPDATE imports SET keys = (SELECT count(*) FROM keys WHERE keys.import = imports.id);
