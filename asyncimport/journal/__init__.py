"""The durable queue: what was found, what was sent, and what XNAT answered.

The journal is the only queue and the only record. It is synchronous: the pipeline calls it from one worker thread at a
time. Every method is one transaction and returns what is committed: no kill takes it back.

A power failure may take back the last transactions. These are synced before they return: the beginning of a delivery;
its seal, before XNAT is called about it, with every outcome before; verdicts; results of attachments and subjects; the
beginning and the end of a run. Other outcomes are synced four times a second. A lost outcome is found again in the
archive, or its file is sent again into a delivery that is not sealed, where it overwrites itself.
"""

from asyncimport.journal.database import LockWait, copy_journal
from asyncimport.journal.deliveries import replaced_since
from asyncimport.journal.existing import AdoptedFiles
from asyncimport.journal.files import SopUidConflict
from asyncimport.journal.header_cache import HeaderCache
from asyncimport.journal.journal import Journal
from asyncimport.journal.reader import JournalReader
from asyncimport.journal.rows import (
    Header,
    NonInstance,
    RecentStudies,
    SentFile,
    StoredInstance,
    StudySummary,
    SubjectPatient,
)
from asyncimport.journal.scan import Admission, VanishedFiles
from asyncimport.journal.subjects import DueSubject, SessionHeaders

__all__ = [
    "Admission", "AdoptedFiles", "DueSubject", "Header", "HeaderCache", "Journal", "JournalReader", "LockWait",
    "NonInstance", "RecentStudies", "SentFile", "SessionHeaders", "SopUidConflict", "StoredInstance", "StudySummary",
    "SubjectPatient", "VanishedFiles", "copy_journal", "replaced_since",
]  # fmt: skip
