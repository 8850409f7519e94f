BEGIN TRANSACTION;
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
INSERT INTO "about" VALUES('destination','https://xnat.test');
INSERT INTO "about" VALUES('rule project','P');
INSERT INTO "about" VALUES('rule subject','{PatientID}');
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
CREATE TABLE delivery (
    key INTEGER PRIMARY KEY,
    session INTEGER NOT NULL REFERENCES session,
    number INTEGER NOT NULL,
    state TEXT NOT NULL DEFAULT 'OPEN',
    uri TEXT,
    archive_uri TEXT,
    verified TEXT,
    reason TEXT,
    unsure_at REAL,
    closed_at REAL,
    merges INTEGER,
    partial INTEGER,
    UNIQUE (session, number)
);
INSERT INTO "delivery" VALUES(1,1,1,'ARCHIVED','/prearchive/E1/1','/archive/E1','uids',NULL,NULL,1770000000.0,NULL,0);
INSERT INTO "delivery" VALUES(2,2,1,'ARCHIVED','/prearchive/E2/1','/archive/E2','uids',NULL,NULL,1770000000.0,NULL,0);
INSERT INTO "delivery" VALUES(3,3,1,'HELD','/prearchive/E3/1',NULL,NULL,'XNAT put the file into a second prearchive session of the same study',NULL,NULL,NULL,NULL);
INSERT INTO "delivery" VALUES(4,4,1,'HELD',NULL,NULL,NULL,'XNAT put the file into unassigned: the project is not known to it or not open to this user',NULL,NULL,NULL,NULL);
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
CREATE TABLE file (
    key INTEGER PRIMARY KEY,
    path BLOB NOT NULL UNIQUE,
    size INTEGER NOT NULL,
    mtime_ns TEXT NOT NULL,
    kind TEXT NOT NULL,
    reason TEXT,
    instance INTEGER,
    lacked_by INTEGER,
    lacked_uid TEXT
);
INSERT INTO "file" VALUES(1,X'2F7372632F312F61',10,'1000','INSTANCE',NULL,1,NULL,NULL);
INSERT INTO "file" VALUES(2,X'2F7372632F312F62',10,'1000','INSTANCE',NULL,2,NULL,NULL);
INSERT INTO "file" VALUES(3,X'2F7372632F312F63',10,'1000','INSTANCE',NULL,3,NULL,NULL);
INSERT INTO "file" VALUES(4,X'2F7372632F322F61',10,'1000','INSTANCE',NULL,4,NULL,NULL);
INSERT INTO "file" VALUES(5,X'2F7372632F322F62',10,'1000','INSTANCE',NULL,5,NULL,NULL);
INSERT INTO "file" VALUES(6,X'2F7372632F322F63',10,'1000','INSTANCE',NULL,6,NULL,NULL);
INSERT INTO "file" VALUES(7,X'2F7372632F332F61',10,'1000','INSTANCE',NULL,7,NULL,NULL);
INSERT INTO "file" VALUES(8,X'2F7372632F332F62',10,'1000','INSTANCE',NULL,8,NULL,NULL);
INSERT INTO "file" VALUES(9,X'2F7372632F332F63',10,'1000','INSTANCE',NULL,9,NULL,NULL);
INSERT INTO "file" VALUES(10,X'2F7372632F342F61',10,'1000','INSTANCE',NULL,10,NULL,NULL);
INSERT INTO "file" VALUES(11,X'2F7372632F342F62',10,'1000','INSTANCE',NULL,11,NULL,NULL);
INSERT INTO "file" VALUES(12,X'2F7372632F342F63',10,'1000','INSTANCE',NULL,12,NULL,NULL);
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
    UNIQUE (session, sop_uid)
);
INSERT INTO "instance" VALUES(1,1,'1.2.E1.1/a','1.9',1,'STORED',NULL,1,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(2,1,'1.2.E1.1/b','1.9',2,'STORED',NULL,1,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(3,1,'1.2.E1.1/c','1.9',3,'REFUSED','XNAT did not keep the file: the site''s series import filter rejects it (empty 200)',NULL,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(4,2,'1.2.E2.2/a','1.9',4,'STORED',NULL,2,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(5,2,'1.2.E2.2/b','1.9',5,'STORED',NULL,2,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(6,2,'1.2.E2.2/c','1.9',6,'REFUSED','XNAT refused the file (400: status 400)',NULL,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(7,3,'1.2.E3.3/a','1.9',7,'STORED',NULL,3,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(8,3,'1.2.E3.3/b','1.9',8,'REFUSED','XNAT put the file into a second prearchive session of the same study',NULL,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(9,3,'1.2.E3.3/c','1.9',9,'STORED',NULL,3,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(10,4,'1.2.E4.4/a','1.9',10,'REFUSED','XNAT put the file into unassigned: the project is not known to it or not open to this user',NULL,1,1,1770000000.0,NULL);
INSERT INTO "instance" VALUES(11,4,'1.2.E4.4/b','1.9',11,'PENDING',NULL,NULL,NULL,NULL,NULL,NULL);
INSERT INTO "instance" VALUES(12,4,'1.2.E4.4/c','1.9',12,'PENDING',NULL,NULL,NULL,NULL,NULL,NULL);
CREATE TABLE patient (
    project TEXT NOT NULL,
    subject TEXT NOT NULL COLLATE NOCASE,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    birth_date TEXT NOT NULL,
    PRIMARY KEY (project, subject, id)
) WITHOUT ROWID;
INSERT INTO "patient" VALUES('P','S1','','','');
INSERT INTO "patient" VALUES('P','S2','','','');
INSERT INTO "patient" VALUES('P','S3','','','');
INSERT INTO "patient" VALUES('P','S4','','','');
CREATE TABLE run (
    key INTEGER PRIMARY KEY,
    started TEXT NOT NULL,
    ended TEXT,
    exit_code INTEGER
);
INSERT INTO "run" VALUES(1,'2026-02-02T02:40:00+00:00','2026-02-02T02:40:00+00:00',8);
CREATE TABLE session (
    key INTEGER PRIMARY KEY,
    project TEXT NOT NULL,
    subject TEXT NOT NULL,
    label TEXT NOT NULL,
    study_uid TEXT NOT NULL,
    patient TEXT NOT NULL,
    UNIQUE (project, study_uid)
);
INSERT INTO "session" VALUES(1,'P','S1','E1','1.2.E1','');
INSERT INTO "session" VALUES(2,'P','S2','E2','1.2.E2','');
INSERT INTO "session" VALUES(3,'P','S3','E3','1.2.E3','');
INSERT INTO "session" VALUES(4,'P','S4','E4','1.2.E4','');
CREATE TABLE transition (
    thing TEXT NOT NULL,
    was TEXT NOT NULL,
    becomes TEXT NOT NULL,
    PRIMARY KEY (thing, was, becomes)
) WITHOUT ROWID;
INSERT INTO "transition" VALUES('delivery','BUILT','SEALED');
INSERT INTO "transition" VALUES('delivery','HELD','SEALED');
INSERT INTO "transition" VALUES('delivery','OPEN','HELD');
INSERT INTO "transition" VALUES('delivery','OPEN','SEALED');
INSERT INTO "transition" VALUES('delivery','SEALED','ARCHIVED');
INSERT INTO "transition" VALUES('delivery','SEALED','BUILT');
INSERT INTO "transition" VALUES('delivery','SEALED','HELD');
INSERT INTO "transition" VALUES('instance','FAILED','PENDING');
INSERT INTO "transition" VALUES('instance','PENDING','FAILED');
INSERT INTO "transition" VALUES('instance','PENDING','REFUSED');
INSERT INTO "transition" VALUES('instance','PENDING','STORED');
INSERT INTO "transition" VALUES('instance','REFUSED','PENDING');
INSERT INTO "transition" VALUES('instance','STORED','PENDING');
INSERT INTO "transition" VALUES('instance','STORED','REFUSED');
CREATE UNIQUE INDEX session_label ON session (project, label COLLATE NOCASE);
CREATE INDEX patient_id ON patient (project, id);
CREATE INDEX delivery_live ON delivery (state) WHERE state IN ('OPEN', 'SEALED');
CREATE INDEX file_duplicate ON file (instance) WHERE kind = 'DUPLICATE';
CREATE INDEX file_lacked ON file (lacked_by) WHERE lacked_by IS NOT NULL;
CREATE UNIQUE INDEX attachment_name ON attachment (session, resource, name) WHERE session IS NOT NULL;
CREATE INDEX attachment_pending ON attachment (session, resource) WHERE state = 'PENDING';
CREATE TRIGGER instance_begins BEFORE INSERT ON instance WHEN new.state <> 'PENDING'
BEGIN
    SELECT raise(ABORT, 'an instance begins as PENDING');
END;
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
CREATE TRIGGER delivery_begins BEFORE INSERT ON delivery
BEGIN
    SELECT raise(ABORT, 'a delivery begins as OPEN') WHERE new.state <> 'OPEN';
    SELECT raise(ABORT, 'the last delivery of the session is not at its end')
    WHERE EXISTS (
        SELECT 1 FROM delivery WHERE session = new.session AND state NOT IN ('ARCHIVED', 'BUILT')
    );
END;
CREATE TRIGGER delivery_moves BEFORE UPDATE OF state ON delivery
WHEN old.state <> new.state
BEGIN
    SELECT raise(ABORT, 'illegal change of a delivery')
    WHERE NOT EXISTS (SELECT 1 FROM transition WHERE thing = 'delivery' AND was = old.state AND becomes = new.state);
    SELECT raise(ABORT, 'a delivery that holds nothing cannot be sealed')
    WHERE new.state = 'SEALED' AND old.uri IS NULL;
    SELECT raise(ABORT, 'a session with unsettled instances cannot be sealed')
    WHERE new.state = 'SEALED' AND old.state = 'OPEN'
      AND EXISTS (SELECT 1 FROM instance WHERE session = old.session AND state = 'PENDING');
END;
CREATE TRIGGER delivery_stays BEFORE UPDATE OF uri ON delivery
WHEN old.uri IS NOT NULL AND new.uri IS NOT old.uri
BEGIN
    SELECT raise(ABORT, 'a delivery has one prearchive row');
END;
COMMIT;
