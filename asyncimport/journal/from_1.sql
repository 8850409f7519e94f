-- From version 1 to 2: attempts that may yet take effect, partial sessions, receipts.

ALTER TABLE delivery ADD COLUMN unsure_at REAL;
ALTER TABLE delivery ADD COLUMN closed_at REAL;
ALTER TABLE delivery ADD COLUMN merges INTEGER;
ALTER TABLE delivery ADD COLUMN partial INTEGER;
ALTER TABLE file ADD COLUMN lacked_by INTEGER;
ALTER TABLE file ADD COLUMN lacked_uid TEXT;
ALTER TABLE instance ADD COLUMN attempts INTEGER;
ALTER TABLE instance ADD COLUMN settled_at REAL;
ALTER TABLE instance ADD COLUMN sha256 BLOB;
CREATE INDEX file_lacked ON file (lacked_by) WHERE lacked_by IS NOT NULL;

DROP TRIGGER instance_moves;
CREATE TRIGGER instance_moves BEFORE UPDATE OF state ON instance
WHEN old.state <> new.state
BEGIN
    SELECT raise(ABORT, 'illegal change of an instance')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'instance' AND was = old.state AND becomes = new.state);
    SELECT raise(ABORT, 'nothing is stored behind the seal')
    WHERE new.state = 'STORED'
      AND (SELECT state FROM delivery WHERE key = new.delivery AND session = new.session) IS NOT 'OPEN';
    SELECT raise(ABORT, 'what is stored stays so until the archive is seen to lack it')
    WHERE old.state = 'STORED'
      AND EXISTS (SELECT 1 FROM delivery WHERE session = new.session AND state NOT IN ('ARCHIVED', 'BUILT'));
END;
