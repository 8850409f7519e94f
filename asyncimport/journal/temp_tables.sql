-- What belongs to the running process only: a kill forgets it, and every instance in flight is PENDING again.

-- Files of this run's sources that the walk has passed.
CREATE TEMP TABLE scope (file INTEGER PRIMARY KEY);
-- Instances to be handed out, and instances handed out and not settled yet.
CREATE TEMP TABLE waiting (session INTEGER, instance INTEGER, PRIMARY KEY (session, instance)) WITHOUT ROWID;
CREATE TEMP TABLE flying (session INTEGER, instance INTEGER, PRIMARY KEY (session, instance)) WITHOUT ROWID;
-- Here, and not in a statement of its own: each statement asks for Python's lock, which the loop then waits for.
CREATE TEMP TRIGGER instance_lands AFTER UPDATE OF settled_at ON main.instance
BEGIN
    DELETE FROM flying WHERE session = new.session AND instance = new.key;
END;
-- Sessions that XNAT would not take or archive in this run, with the reason: nothing more of them is sent in it. With
-- `second_row`, what has become of the row of their open delivery is yet to be found out.
CREATE TEMP TABLE barred (session INTEGER PRIMARY KEY, reason TEXT NOT NULL, second_row INTEGER NOT NULL DEFAULT 0);
-- Instances whose only copy could not be read; a duplicate that the scan has yet to meet may stand in.
CREATE TEMP TABLE unread (instance INTEGER PRIMARY KEY);
-- Unreadable files whose header could be read, and what it said.
CREATE TEMP TABLE lacked (file INTEGER PRIMARY KEY, project TEXT, study_uid TEXT, sop_uid TEXT);
-- Sessions whose missing instances have been sent again in this run.
CREATE TEMP TABLE repaired (session INTEGER PRIMARY KEY);
-- When an attempt to send into an open delivery was last known to have broken off, by a clock that nobody can set.
CREATE TEMP TABLE unsure (delivery INTEGER PRIMARY KEY, since REAL NOT NULL);
-- Sessions of which the archive was asked what it has, and the SOPInstanceUIDs that it has of them.
CREATE TEMP TABLE looked (session INTEGER PRIMARY KEY);
CREATE TEMP TABLE held (session INTEGER, sop_uid TEXT, PRIMARY KEY (session, sop_uid)) WITHOUT ROWID;
-- Data types of sessions in the archive, into which XNAT merges no other.
CREATE TEMP TABLE typed (session INTEGER PRIMARY KEY, kind TEXT NOT NULL);
-- Sessions of which only more that the scan may yet meet can go there.
CREATE TEMP TABLE awaited (session INTEGER PRIMARY KEY);
-- Sessions in the prearchive that are to get the labels of changed rules, which their files decide.
CREATE TEMP TABLE rerouted (session INTEGER PRIMARY KEY);
-- Sessions that occupy the server's prearchive because of this run.
CREATE TEMP TABLE begun (session INTEGER PRIMARY KEY);
-- Deliveries to be finalised, and subjects that a finalizer is at work on.
CREATE TEMP TABLE ready (delivery INTEGER PRIMARY KEY);
CREATE TEMP TABLE busy (subject TEXT COLLATE NOCASE PRIMARY KEY) WITHOUT ROWID;
-- Files that were met under a name that another one was stored under which was not: that one moved, if the bytes are its.
CREATE TEMP TABLE moved (file INTEGER PRIMARY KEY, attachment INTEGER NOT NULL);
-- Resources that are being filled: one write at a time goes into each.
CREATE TEMP TABLE filling (session INTEGER, resource TEXT, PRIMARY KEY (session, resource)) WITHOUT ROWID;
