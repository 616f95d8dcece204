-- One entry an hour for each subscriber and outcome is the memory of the process that decides (storage/entered.py): the
-- index had each such entry, the first repeat of an hour among them, written to a random page.
DROP INDEX journal_once_an_hour;
