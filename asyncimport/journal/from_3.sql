-- From version 3 to 4: what tells a file that was replaced, digests of all that is sent, why XNAT refused a file, and what
-- the archive held before.

ALTER TABLE file ADD COLUMN inode INTEGER;
ALTER TABLE file ADD COLUMN ctime_ns INTEGER;
ALTER TABLE instance ADD COLUMN xxh3 BLOB;
ALTER TABLE attachment ADD COLUMN inode INTEGER;
ALTER TABLE attachment ADD COLUMN ctime_ns INTEGER;
ALTER TABLE attachment ADD COLUMN stored_size INTEGER;
ALTER TABLE attachment ADD COLUMN refusal TEXT;
ALTER TABLE attachment ADD COLUMN begun INTEGER;
UPDATE attachment SET stored_size = size WHERE state = 'STORED';
ALTER TABLE instance ADD COLUMN refusal TEXT;

-- Until then each refused file was left out of its session. What a rule of the site drops still is.
UPDATE instance SET refusal = CASE
    WHEN reason LIKE 'XNAT did not keep %' THEN 'DROPPED'
    WHEN reason LIKE '%rejects files, and the archive does not hold this one' THEN 'DROPPED'
    WHEN reason LIKE 'XNAT put the file into %' THEN 'SERVER'
    WHEN reason LIKE 'XNAT does not let this user import here %' THEN 'SERVER'
    WHEN reason LIKE 'XNAT could not read the file %' THEN 'SERVER'
    ELSE 'FILE'
END WHERE state = 'REFUSED';

-- What was held because XNAT would not take its files was never sealed: it goes on.
DROP TRIGGER delivery_moves;
UPDATE delivery SET state = 'OPEN' WHERE state = 'HELD' AND archive_uri IS NULL AND (
    reason LIKE 'XNAT put the file into %'
    OR reason LIKE 'XNAT does not let this user import here %'
    OR reason LIKE 'XNAT''s answer to the import is not %'
);

ALTER TABLE instance ADD COLUMN presumed INTEGER;
ALTER TABLE instance ADD COLUMN modality TEXT;
ALTER TABLE delivery ADD COLUMN expected INTEGER;
ALTER TABLE delivery ADD COLUMN digests TEXT;
ALTER TABLE delivery ADD COLUMN held_before TEXT;

CREATE TRIGGER delivery_moves BEFORE UPDATE OF state ON delivery
WHEN old.state <> new.state
BEGIN
    SELECT raise(ABORT, 'illegal change of a delivery')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'delivery' AND was = old.state AND becomes = new.state);
    SELECT raise(ABORT, 'a delivery that holds nothing cannot be sealed')
    WHERE new.state = 'SEALED' AND old.uri IS NULL;
    SELECT raise(ABORT, 'what was not sealed has been seen in the archive')
    WHERE new.state = 'ARCHIVED' AND old.state = 'OPEN' AND new.archive_uri IS NULL;
    SELECT raise(ABORT, 'a session with unsettled instances cannot be sealed')
    WHERE new.state = 'SEALED' AND old.state = 'OPEN'
      AND EXISTS (SELECT 1 FROM instance WHERE session = old.session AND state = 'PENDING');
END;

-- A delivery whose row somebody has deleted is at its end too.
DROP TRIGGER instance_moves;
CREATE TRIGGER instance_moves BEFORE UPDATE OF state ON instance
WHEN old.state <> new.state
BEGIN
    SELECT raise(ABORT, 'illegal change of an instance')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'instance' AND was = old.state AND becomes = new.state);
    SELECT raise(ABORT, 'nothing is stored behind the seal')
    WHERE new.state = 'STORED' AND NOT EXISTS (
        SELECT 1 FROM delivery WHERE key = new.delivery AND session = new.session
        -- What was found in the archive may grow while the scan goes on.
        AND (state = 'OPEN' OR (state = 'ARCHIVED' AND uri IS NULL))
    );
    SELECT raise(ABORT, 'what is stored stays so until the archive is seen to lack it')
    WHERE old.state = 'STORED'
      AND EXISTS (SELECT 1 FROM delivery WHERE session = new.session AND state NOT IN ('ARCHIVED', 'BUILT', 'DELETED'));
END;
DROP TRIGGER delivery_begins;
CREATE TRIGGER delivery_begins BEFORE INSERT ON delivery
BEGIN
    SELECT raise(ABORT, 'a delivery begins as OPEN') WHERE new.state <> 'OPEN';
    SELECT raise(ABORT, 'the last delivery of the session is not at its end')
    WHERE EXISTS (
        SELECT 1 FROM delivery WHERE session = new.session AND state NOT IN ('ARCHIVED', 'BUILT', 'DELETED')
    );
END;

-- Several people may be in a subject: who they are is kept, also of those who were let in without being noted.
ALTER TABLE patient RENAME TO earlier_patient;
DROP INDEX patient_id;
CREATE TABLE patient (
    key INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    subject TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL,
    issuer TEXT NOT NULL,
    name TEXT NOT NULL,
    birth_date TEXT NOT NULL,
    merged INTEGER,
    archived INTEGER
);
CREATE INDEX patient_subject ON patient (project, subject, id);
CREATE INDEX patient_id ON patient (project, id, issuer, name, birth_date, subject);
INSERT INTO patient (project, subject, id, issuer, name, birth_date)
    SELECT project, subject, id, '', name, birth_date FROM earlier_patient ORDER BY project, subject, id;
DROP TABLE earlier_patient;
INSERT INTO patient (project, subject, id, issuer, name, birth_date, merged)
    SELECT DISTINCT project, subject, patient, '', '', '', 1 FROM session s WHERE NOT EXISTS (
        SELECT 1 FROM patient p WHERE p.project = s.project AND p.subject = s.subject AND p.id = s.patient
    );

ALTER TABLE session ADD COLUMN begun_subject TEXT;
ALTER TABLE session ADD COLUMN begun_label TEXT;
ALTER TABLE session ADD COLUMN headers TEXT;
ALTER TABLE described ADD COLUMN held TEXT NOT NULL DEFAULT '{}';
UPDATE described SET held = (
    SELECT json_group_object(key, value) FROM json_each(fields) WHERE key NOT IN (SELECT value FROM json_each(kept))
) WHERE state = 'STORED';
ALTER TABLE session ADD COLUMN ruled_subject TEXT;
ALTER TABLE session ADD COLUMN ruled_label TEXT;
UPDATE session SET ruled_subject = subject, ruled_label = label;
