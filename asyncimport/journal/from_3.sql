-- From version 3 to 4: what tells a file that was replaced, and digests of all that is sent.

ALTER TABLE file ADD COLUMN inode INTEGER;
ALTER TABLE file ADD COLUMN ctime_ns INTEGER;
ALTER TABLE instance ADD COLUMN xxh3 BLOB;
ALTER TABLE attachment ADD COLUMN inode INTEGER;
ALTER TABLE attachment ADD COLUMN ctime_ns INTEGER;
