-- From version 2 to 3: attachments, and what was said of subjects.

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
    md5 TEXT
);
CREATE UNIQUE INDEX attachment_name ON attachment (session, resource, name) WHERE session IS NOT NULL;
CREATE INDEX attachment_pending ON attachment (session, resource) WHERE state = 'PENDING';

CREATE TABLE described (
    project TEXT NOT NULL,
    subject TEXT NOT NULL COLLATE NOCASE,
    state TEXT NOT NULL CHECK (state IN ('STORED', 'REFUSED', 'FAILED')),
    fields TEXT NOT NULL,
    kept TEXT NOT NULL,
    taken TEXT NOT NULL,
    reason TEXT,
    run INTEGER REFERENCES run,
    PRIMARY KEY (project, subject)
) WITHOUT ROWID;
