"""The durable queue: what was found, what was sent, what XNAT said.

The journal is the only queue and the only truth. It is synchronous; the line calls it from one worker thread at a
time. Every method is one transaction, and what it returns is committed: a kill takes nothing of it back.

A power failure may take back the last of it. Synced before they are returned are the beginning of a delivery, its seal
before XNAT is called about it, and with it all that was settled before, verdicts, what was filed and described, and a
run's beginning and end; outcomes four times a second. What is forgotten is found again, or sent again into what is not
sealed, where it overwrites itself.
"""

from asyncimport.journal.database import Waiting
from asyncimport.journal.holdings import Adopted
from asyncimport.journal.intake import Admission, Gone, Twin
from asyncimport.journal.ledger import Arrived, Ledger, Resident, SentFile
from asyncimport.journal.queue import Journal, replaced_since
from asyncimport.journal.registry import digested
from asyncimport.journal.subjects import DueSubject, SessionHeaders
from asyncimport.journal.survey import Header, Looks, Odd, Survey, Surveyed

__all__ = [
    "Admission",
    "Adopted",
    "Arrived",
    "DueSubject",
    "Gone",
    "Header",
    "Journal",
    "Ledger",
    "Looks",
    "Odd",
    "Resident",
    "SentFile",
    "SessionHeaders",
    "Survey",
    "Surveyed",
    "Twin",
    "Waiting",
    "digested",
    "replaced_since",
]
