-- The journal on disk. Paths are the raw bytes of the file system, which need not be text. Times are seconds since 1970
-- unless they are text.

CREATE TABLE metadata (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

-- `about` is a JSON object: what the run was asked to do, with its version and settings. It holds no secret.
CREATE TABLE run (
    key INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    ended TEXT,
    exit_code INTEGER,
    about TEXT
);

-- What a run sent over time, for reports: a row for each interval of `seconds`, which begins `second` seconds after the
-- run. All intervals of a run are as long; they get longer so that a run of days has a few hundred. `files` and `size`
-- (bytes) are stored ones, `failed` those with another outcome, `retries` attempts that failed. `busy_seconds` is how
-- long the uploads of the stored files took together, `slowest_seconds` the longest of them. `in_flight` is the most
-- uploads that were seen at once, `allowed` the highest limit on them.
CREATE TABLE activity (
    run INTEGER NOT NULL REFERENCES run,
    second INTEGER NOT NULL,
    seconds INTEGER NOT NULL,
    files INTEGER NOT NULL,
    size INTEGER NOT NULL,
    failed INTEGER NOT NULL,
    retries INTEGER NOT NULL,
    busy_seconds REAL NOT NULL,
    slowest_seconds REAL NOT NULL,
    in_flight INTEGER NOT NULL,
    allowed INTEGER NOT NULL,
    PRIMARY KEY (run, second)
) WITHOUT ROWID;

-- What each worker of a cluster has done in a run, as it was known last: see `WorkerActivity`. `size` is in bytes.
CREATE TABLE worker (
    run INTEGER NOT NULL REFERENCES run,
    name TEXT NOT NULL,
    files INTEGER NOT NULL,
    size INTEGER NOT NULL,
    files_per_second REAL NOT NULL,
    in_flight INTEGER NOT NULL,
    limited_by TEXT NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;

-- The session of a study. No two studies share a label; a later study with a taken label gets no row. NOCASE, as XNAT
-- ignores case when it archives. `initial_*` are the labels that its prearchive row began with, if they differ.
-- `headers` is a JSON object about the headers of its stored files: `values` has all values of each requested field,
-- `run` is the last run whose files were read, `files` their number. `routed_*` are the labels that the rules give it
-- file by file; NULL if unknown, as after a plan or changed rules. `study_date` is that of its first file, as in the
-- header; it is only shown.
CREATE TABLE session (
    key INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    subject TEXT NOT NULL,
    label TEXT NOT NULL,
    study_uid TEXT NOT NULL,
    patient TEXT NOT NULL,
    initial_subject TEXT,
    initial_label TEXT,
    headers TEXT,
    routed_subject TEXT,
    routed_label TEXT,
    study_date TEXT,
    UNIQUE (project, study_uid)
);
CREATE UNIQUE INDEX session_label ON session (project, label COLLATE NOCASE);

-- The patients of each subject. Names (each of their groups) and birth dates are digests, '' if unknown: the journal
-- only compares them. `allowed`: the user let this patient in, or had it accepted in the archive, despite others in the
-- subject. `archived`: an archived session of the patient was taken out of the journal; the patient stays.
CREATE TABLE patient (
    key INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    subject TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL,
    issuer TEXT NOT NULL,
    name TEXT NOT NULL,
    birth_date TEXT NOT NULL,
    allowed INTEGER,
    archived INTEGER
);
CREATE INDEX patient_subject ON patient (project, subject, id);
CREATE INDEX patient_id ON patient (project, id, issuer, name, birth_date, subject);

-- One prearchive row of a session. `uri` is known from the first acknowledged file on; an ARCHIVED delivery without one
-- stands for instances found in the archive, which were not sent. `interrupted_at` is the last known time of an
-- interrupted attempt to send into it (it may still take effect), `closed_at` when the delivery ended. `merges`: the
-- archive held the session before. `partial`: sealed though files are missing. If a script gives instances new UIDs,
-- only their number can be compared: `expected` is how many the archive must hold in the end, `archived_before` a JSON
-- array of the SOPInstanceUIDs that it held before, kept until the delivery is archived. The `reason` of an OPEN or
-- SEALED delivery is why the last run did not continue it. `digests` of the last one verified is a JSON object of the
-- digests that XNAT had then (the bytes differ from those sent), by SOPInstanceUID, "" for none: another digest means
-- that somebody has replaced the instance since.
CREATE TABLE delivery (
    key INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES session,
    number INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'OPEN',
    uri TEXT,
    archive_uri TEXT,
    verified TEXT,
    reason TEXT,
    interrupted_at REAL,
    closed_at REAL,
    merges INTEGER,
    partial INTEGER,
    expected INTEGER,
    digests TEXT,
    archived_before TEXT,
    UNIQUE (session, number)
);
CREATE INDEX delivery_live ON delivery (state) WHERE state IN ('OPEN', 'SEALED');

-- Every file found on disk. `instance` is the instance that an INSTANCE file carries, that a DUPLICATE repeats, that
-- XNAT had stored before a SKIPPED file replaced it, or that an UNREADABLE file carried when it was readable. An
-- UNREADABLE file is `missing_from` the session that it seems to belong to, with its SOPInstanceUID if known; so is a
-- SKIPPED file of another patient with the study of the session. Size, times and inode are those of the bytes that were
-- sent, or that equal them; without inode and ctime nothing proves that (some file systems have neither). Nanoseconds
-- after the year 2262 exceed the 64 bits of SQLite.
CREATE TABLE file (
    key INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT,
    instance INTEGER,
    missing_from INTEGER,
    missing_uid TEXT,
    inode INTEGER,
    ctime_ns INTEGER
);
CREATE INDEX file_duplicate ON file (instance) WHERE kind = 'DUPLICATE';
CREATE INDEX file_missing ON file (missing_from) WHERE missing_from IS NOT NULL;

-- An instance to send. `file` is the copy it is read from (if that holds something else now, it names another
-- instance), `delivery` where it was stored, `run` the run of its outcome, after `attempts`. `sha256` is the digest of
-- what was sent, if asked for, `xxh3` (XXH3-128, big-endian) that of everything sent. `refusal` is why XNAT lacks a
-- REFUSED one: DROPPED by a rule of the site, because of the FILE, or because of the state of the SERVER. `presumed`:
-- the archive had an instance of this SOPInstanceUID before, and nothing proves that it has this version. `modality` is
-- '' if its header has none. `zip_size`: it was sent as a zip of this many bytes.
CREATE TABLE instance (
    key INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES session,
    sop_uid TEXT NOT NULL,
    series_uid TEXT NOT NULL,
    file INTEGER NOT NULL REFERENCES file,
    state TEXT NOT NULL DEFAULT 'PENDING',
    reason TEXT,
    delivery INTEGER REFERENCES delivery,
    run INTEGER REFERENCES run,
    attempts INTEGER,
    settled_at REAL,
    sha256 BLOB,
    xxh3 BLOB,
    refusal TEXT,
    presumed INTEGER,
    modality TEXT,
    zip_size INTEGER,
    UNIQUE (session, sop_uid)
);

-- A file that goes into a resource of a session, under a name (its path there). `session` is NULL if unclear. Size,
-- times and inode are those of the file at its last decision, `md5` (hexadecimal) and `stored_size` those of what XNAT
-- stored last: while there is an `md5`, the archive must hold that, whatever the state of another attempt. `refusal` is
-- why XNAT lacks a REFUSED one: because of the FILE, or of the state of the SERVER. `started`: an attempt with an
-- unknown end may have sent a part.
CREATE TABLE attachment (
    key INTEGER PRIMARY KEY,
    file INTEGER NOT NULL UNIQUE REFERENCES file,
    size INTEGER NOT NULL,
    mtime_ns TEXT NOT NULL,
    session INTEGER REFERENCES session,
    resource TEXT NOT NULL,
    name TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('PENDING', 'STORED', 'REFUSED', 'FAILED', 'SKIPPED')),
    reason TEXT,
    run INTEGER REFERENCES run,
    settled_at REAL,
    md5 TEXT,
    inode INTEGER,
    ctime_ns INTEGER,
    stored_size INTEGER,
    refusal TEXT,
    started INTEGER
);
CREATE UNIQUE INDEX attachment_name ON attachment (session, resource, name) WHERE session IS NOT NULL;
CREATE INDEX attachment_pending ON attachment (session, resource) WHERE state = 'PENDING';

-- The demographics of subjects. `fields` is a JSON object of the values that the archive was to hold, `kept` a JSON
-- array of those fields that have another value there and were left so, `taken` of those that came from headers. `held`
-- is a JSON object of the values that the archive was once seen to have.
CREATE TABLE subject_demographics (
    project TEXT NOT NULL,
    subject TEXT NOT NULL COLLATE NOCASE,
    state TEXT NOT NULL CHECK (state IN ('STORED', 'REFUSED', 'FAILED')),
    fields TEXT NOT NULL,
    kept TEXT NOT NULL,
    taken TEXT NOT NULL,
    reason TEXT,
    run INTEGER REFERENCES run,
    held TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (project, subject)
) WITHOUT ROWID;

CREATE TABLE transition (
    entity TEXT NOT NULL,
    old_state TEXT NOT NULL,
    new_state TEXT NOT NULL,
    PRIMARY KEY (entity, old_state, new_state)
) WITHOUT ROWID;

CREATE TRIGGER instance_begins BEFORE INSERT ON instance WHEN new.state <> 'PENDING'
BEGIN
    SELECT raise(ABORT, 'an instance begins as PENDING');
END;

CREATE TRIGGER instance_moves BEFORE UPDATE OF state ON instance
WHEN old.state <> new.state
BEGIN
    SELECT raise(ABORT, 'illegal change of an instance')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE entity = 'instance' AND old_state = old.state
        AND new_state = new.state);
    SELECT raise(ABORT, 'nothing is stored after the seal')
    WHERE new.state = 'STORED' AND NOT EXISTS (
        SELECT 1 FROM delivery WHERE key = new.delivery AND session = new.session
        -- The delivery of what was found in the archive grows during the scan.
        AND (state = 'OPEN' OR (state = 'ARCHIVED' AND uri IS NULL))
    );
    SELECT raise(ABORT, 'a stored instance stays so until the archive is seen to lack it')
    WHERE old.state = 'STORED'
      AND EXISTS (SELECT 1 FROM delivery WHERE session = new.session AND state NOT IN ('ARCHIVED', 'BUILT', 'DELETED'));
END;

CREATE TRIGGER delivery_begins BEFORE INSERT ON delivery
BEGIN
    SELECT raise(ABORT, 'a delivery begins as OPEN') WHERE new.state <> 'OPEN';
    SELECT raise(ABORT, 'the last delivery of the session has not ended')
    WHERE EXISTS (
        SELECT 1 FROM delivery WHERE session = new.session AND state NOT IN ('ARCHIVED', 'BUILT', 'DELETED')
    );
END;

CREATE TRIGGER delivery_moves BEFORE UPDATE OF state ON delivery
WHEN old.state <> new.state
BEGIN
    SELECT raise(ABORT, 'illegal change of a delivery')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE entity = 'delivery' AND old_state = old.state
        AND new_state = new.state);
    SELECT raise(ABORT, 'an empty delivery cannot be sealed')
    WHERE new.state = 'SEALED' AND old.uri IS NULL;
    SELECT raise(ABORT, 'an unsealed delivery must be seen in the archive')
    WHERE new.state = 'ARCHIVED' AND old.state = 'OPEN' AND new.archive_uri IS NULL;
    SELECT raise(ABORT, 'a session with pending instances cannot be sealed')
    WHERE new.state = 'SEALED' AND old.state = 'OPEN'
      AND EXISTS (SELECT 1 FROM instance WHERE session = old.session AND state = 'PENDING');
END;

CREATE TRIGGER delivery_stays BEFORE UPDATE OF uri ON delivery
WHEN old.uri IS NOT NULL AND new.uri IS NOT old.uri
BEGIN
    SELECT raise(ABORT, 'a delivery has one prearchive row');
END;
