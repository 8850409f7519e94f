"""The durable queue: what was found, what was sent, what XNAT said.

The journal is the only queue and the only truth. It is synchronous; the line calls it from one worker thread at a
time. Every method is one transaction, and what it returns has reached the disk.
"""

from asyncimport.journal.intake import Admission, Gone, Twin
from asyncimport.journal.ledger import Ledger
from asyncimport.journal.queue import Journal
from asyncimport.journal.subjects import DueSubject
from asyncimport.journal.survey import Header, Odd, Survey, Surveyed

__all__ = ["Admission", "DueSubject", "Gone", "Header", "Journal", "Ledger", "Odd", "Survey", "Surveyed", "Twin"]
