-- The headers that a scan has read, for plans. Nothing depends on it: it saves reading unchanged files again.

-- A study may come with different headers: each is a variant of it. `fields` is a JSON object of DICOM keywords.
CREATE TABLE variant (
    key INTEGER PRIMARY KEY,
    study_uid TEXT NOT NULL,
    fields TEXT NOT NULL,
    UNIQUE (study_uid, fields)
);

-- `scan` is the last scan that met the file, at this `position`. Paths are the raw bytes of the file system.
CREATE TABLE file (
    path BLOB PRIMARY KEY,
    size INTEGER NOT NULL,
    mtime_ns TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT NOT NULL,
    sop_uid TEXT,
    series_uid TEXT,
    modality TEXT,
    description TEXT,
    variant INTEGER REFERENCES variant,
    scan INTEGER NOT NULL,
    inode INTEGER,
    ctime_ns INTEGER,
    position INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX file_variant ON file (variant, sop_uid);

-- The state of each study at the last scan that met it: files, bytes and newest times as one text, unchanged `since`
-- then (seconds since 1970).
CREATE TABLE study_state (
    study_uid TEXT PRIMARY KEY,
    state TEXT NOT NULL,
    since REAL NOT NULL
) WITHOUT ROWID;
