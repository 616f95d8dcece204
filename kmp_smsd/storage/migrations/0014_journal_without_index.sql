-- Who has an entry of the hour is in the memory of the process that decides (storage/entered.py): the index had each of
-- these entries, the first repeat of an hour among them, written to a random page.
DROP INDEX journal_once_an_hour;
