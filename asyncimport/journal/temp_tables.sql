-- State of the running process. A kill drops it, and every instance in flight is PENDING again.

-- The files of this run: those that its scan has met.
CREATE TEMP TABLE scope (file INTEGER PRIMARY KEY);
-- Instances to hand out, and instances handed out that have no outcome yet.
CREATE TEMP TABLE queued (session INTEGER, instance INTEGER, PRIMARY KEY (session, instance)) WITHOUT ROWID;
CREATE TEMP TABLE in_flight (session INTEGER, instance INTEGER, PRIMARY KEY (session, instance)) WITHOUT ROWID;
-- A trigger, not a statement of its own: each statement takes Python's lock, and the event loop waits for it.
CREATE TEMP TRIGGER instance_lands AFTER UPDATE OF settled_at ON main.instance
BEGIN
    DELETE FROM in_flight WHERE session = new.session AND instance = new.key;
END;
-- Sessions that XNAT would not take or archive in this run, with the reason: the run sends nothing more of them. With
-- `second_row`, the run has yet to find out what became of the row of their open delivery.
CREATE TEMP TABLE blocked (session INTEGER PRIMARY KEY, reason TEXT NOT NULL, second_row INTEGER NOT NULL DEFAULT 0);
-- Instances whose only copy could not be read; the scan may yet meet a duplicate.
CREATE TEMP TABLE unreadable (instance INTEGER PRIMARY KEY);
-- Unreadable files with the values of their header; NULL if it is unreadable too.
CREATE TEMP TABLE missing_file (file INTEGER PRIMARY KEY, project TEXT, study_uid TEXT, sop_uid TEXT);
-- Sessions whose missing instances were sent again in this run.
CREATE TEMP TABLE repaired (session INTEGER PRIMARY KEY);
-- The last known time of an interrupted attempt into an open delivery, by a clock that nobody can set.
CREATE TEMP TABLE interrupted (delivery INTEGER PRIMARY KEY, since REAL NOT NULL);
-- Sessions for which the archive was asked what it has, and the SOPInstanceUIDs that it has of them.
CREATE TEMP TABLE archive_checked (session INTEGER PRIMARY KEY);
CREATE TEMP TABLE archived_instance (session INTEGER, sop_uid TEXT, PRIMARY KEY (session, sop_uid)) WITHOUT ROWID;
-- The data types of archived sessions: XNAT merges no other type into them.
CREATE TEMP TABLE archived_type (session INTEGER PRIMARY KEY, kind TEXT NOT NULL);
-- Sessions that XNAT merges only if the scan meets more of their files.
CREATE TEMP TABLE awaiting_scan (session INTEGER PRIMARY KEY);
-- Sessions in the prearchive that wait for labels by changed rules.
CREATE TEMP TABLE relabeled_session (session INTEGER PRIMARY KEY);
-- Sessions that occupy the server's prearchive because of this run.
CREATE TEMP TABLE active_session (session INTEGER PRIMARY KEY);
-- Deliveries to be finalised, and subjects with a delivery that is being finalised.
CREATE TEMP TABLE ready (delivery INTEGER PRIMARY KEY);
CREATE TEMP TABLE busy_subject (subject TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID;
-- Files with the name of a stored file that the scan did not meet: the same file, moved, if the bytes are equal.
CREATE TEMP TABLE possible_move (file INTEGER PRIMARY KEY, attachment INTEGER NOT NULL);
-- Resources that are being filled: each takes one write at a time.
CREATE TEMP TABLE resource_in_use (session INTEGER, resource TEXT, PRIMARY KEY (session, resource)) WITHOUT ROWID;
