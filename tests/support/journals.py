"""Shared by the tests of the journal: sessions, a disk to scan, and the answers of a server."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from asyncimport.journal import Admission, Journal, LockWait, VanishedFiles
from asyncimport.model.deliveries import (
    Archived,
    Built,
    Claim,
    Deleted,
    Failed,
    Held,
    Outcome,
    Refused,
    SealedDelivery,
    Stored,
    Verdict,
)
from asyncimport.model.files import File, Ignored, Instance, Session
from asyncimport.model.states import FileKind, Refusal

ROOT = "/src"
RULES: Mapping[str, str] = {"project": "P", "subject": "{PatientID}"}


def opened(
    path: Path, *, relabel: bool = False, rules: Mapping[str, str] = RULES, lock_wait: LockWait | None = None
) -> Journal:
    """Open the journal as a run does."""
    return Journal(path, destination="https://xnat.test", rules=rules, relabel=relabel, lock_wait=lock_wait)


def session(label: str = "E1", *, subject: str = "S1", study: str | None = None, project: str = "P") -> Session:
    """Make a session. By default each label has its own study."""
    return Session(project, subject, label, study or f"1.2.{label}")


def instance(name: str, of: Session | None = None, *, sop: str | None = None, size: int = 10) -> Instance:
    """Make an instance in a file below the root. By default its SOPInstanceUID follows the name."""
    of = of or session()
    return Instance(File(f"{ROOT}/{name}", size, 1_000), sop or f"{of.study_uid}.{name}", "1.9", of)


def uri(claim: Claim) -> str:
    """Name the prearchive row that a test server would put the claim into."""
    return f"/prearchive/{claim.delivery.session.label}/{claim.delivery.number}"


def stored(claim: Claim) -> Outcome:
    """Acknowledge the file."""
    return Stored(claim, uri(claim))


def archived(sealed: SealedDelivery) -> Verdict:
    """Archive the delivery, with all instances."""
    return Archived(sealed.delivery, f"/archive/{sealed.delivery.session.label}", "uids")


@dataclass
class Disk:
    """Files as a scan finds them. Files with equal content have the same bytes."""

    items: dict[str, Instance | Ignored] = field(default_factory=dict)
    content: dict[str, str] = field(default_factory=dict)

    def put(self, *items: Instance | Ignored, content: str | None = None) -> None:
        """Write files; without `content` an instance's bytes are those of its SOPInstanceUID."""
        for item in items:
            self.items[item.file.path] = item
            own = item.sop_uid if isinstance(item, Instance) else item.reason
            self.content[item.file.path] = own if content is None else content

    def touch(self, name: str, *, size: int | None = None, mtime_ns: int = 2_000, content: str = "rewritten") -> None:
        """Rewrite a file in its place."""
        path = f"{ROOT}/{name}"
        old = self.items[path]
        self.items[path] = replace(old, file=File(path, size or old.file.size, mtime_ns))
        self.content[path] = content

    def move(self, name: str, to: str) -> None:
        """Rename a file: size and time go with it."""
        path, target = f"{ROOT}/{name}", f"{ROOT}/{to}"
        old = self.items.pop(path)
        self.items[target] = replace(old, file=replace(old.file, path=target))
        self.content[target] = self.content.pop(path)

    def remove(self, name: str) -> None:
        """Delete a file."""
        del self.items[f"{ROOT}/{name}"]
        del self.content[f"{ROOT}/{name}"]


def meet(journal: Journal, disk: Disk, *, batch: int = 512, retry_refused: bool = False) -> list[Admission]:
    """Pass all files of the disk to the journal, in sorted order, as the scan of the pipeline does."""
    came = []
    paths = sorted(disk.items)
    for start in range(0, len(paths), batch):
        files = [disk.items[path].file for path in paths[start : start + batch]]
        known = journal.scan.skip_known(files, retry_refused=retry_refused)
        admission = journal.scan.admit([disk.items[file.path] for file in known.unknown])
        if admission.conflicts:
            journal.scan.admit(
                [
                    Ignored(conflict.instance.file, FileKind.DUPLICATE, "the same bytes", conflict.key)
                    if disk.content.get(conflict.other) == disk.content[conflict.instance.file.path]
                    else Ignored(conflict.instance.file, FileKind.SKIPPED, "other bytes")
                    for conflict in admission.conflicts
                ]
            )
        came += [known, admission]
    return came


def scan(
    journal: Journal,
    disk: Disk,
    *,
    batch: int = 512,
    retry_refused: bool = False,
    retry_held: bool = False,
    archive_built: bool = True,
    partial: bool = False,
) -> VanishedFiles:
    """Pass all files of the disk to the journal, and end the scan."""
    meet(journal, disk, batch=batch, retry_refused=retry_refused)
    return journal.scan.finish([ROOT], archive_built=archive_built, retry_held=retry_held, partial=partial)


def sealed_by(journal: Journal) -> SealedDelivery | None:
    """Claim a delivery to finalise, where none has to wait for its settle time."""
    found = journal.deliveries.claim()
    assert not isinstance(found, float)
    return found


def send(
    journal: Journal,
    answer: Callable[[Claim], Outcome] = stored,
    *,
    verdict: Callable[[SealedDelivery], Verdict] = archived,
    max_active: int = 200,
) -> list[Claim]:
    """Do what the rest of the pipeline does until nothing is left. Return the claims."""
    sent: list[Claim] = []
    feeding = True
    while True:
        claims = journal.queue.claim(64, max_active=max_active)
        assert feeding or claims is None, "the line's feed has ended already"
        feeding = claims is not None
        if claims:
            sent += claims
            journal.queue.record_outcomes([answer(claim) for claim in claims])
        sealed = sealed_by(journal)
        if sealed is not None:
            journal.deliveries.record_verdict(verdict(sealed))
        if not feeding and sealed is None:
            return sent
        assert claims or sealed or not feeding, "the line would wait for ever"


def names(claims: list[Claim]) -> list[str]:
    """Return the files of claims, relative to the root."""
    return [claim.instance.file.path.removeprefix(f"{ROOT}/") for claim in claims]


def whole_run(
    path: Path,
    disk: Disk,
    answer: Callable[[Claim], Outcome] = stored,
    *,
    verdict: Callable[[SealedDelivery], Verdict] = archived,
    retry_refused: bool = False,
    retry_held: bool = False,
    archive_built: bool = True,
    relabel: bool = False,
) -> list[str]:
    """Do one whole run. Return the files that were sent, in order."""
    with opened(path, relabel=relabel) as journal:
        scan(journal, disk, retry_refused=retry_refused, retry_held=retry_held, archive_built=archive_built)
        return names(send(journal, answer, verdict=verdict))


E1, E2, E3 = session("E1"), session("E2", subject="S2"), session("E3", subject="S3")


def states(journal: Journal) -> dict[str, str]:
    """Return the state of each instance by the last part of its SOPInstanceUID."""
    rows = journal.connection.db.execute("SELECT sop_uid, state FROM instance").fetchall()
    return {uid.rpartition(".")[2]: state for uid, state in rows}


def deliveries(journal: Journal) -> list[tuple[str, int, str]]:
    """Return label, number and state of each delivery."""
    return journal.connection.db.execute(
        "SELECT s.label, d.number, d.state FROM delivery d JOIN session s ON s.key = d.session ORDER BY d.key"
    ).fetchall()


def kinds(journal: Journal) -> dict[str, str]:
    """Return what each file is."""
    rows = journal.connection.db.execute("SELECT path, kind FROM file").fetchall()
    return {os.fsdecode(found).removeprefix(f"{ROOT}/"): kind for found, kind in rows}


def refused(claim: Claim) -> Outcome:
    """Refuse the file."""
    return Refused(claim, "XNAT did not keep it", kind=Refusal.DROPPED)


def barred(claim: Claim) -> Outcome:
    """Refuse the file with its whole session."""
    return Refused(claim, "not allowed", whole_session=True, kind=Refusal.SERVER)


def second_row(claim: Claim) -> Outcome:
    """Refuse the file, because XNAT has put it into another row."""
    return Refused(claim, "a second row", whole_session=True, kind=Refusal.SERVER, second_row=True)


def deleted(sealed: SealedDelivery) -> Verdict:
    """Report that its row was deleted."""
    return Deleted(sealed.delivery)


def failed(claim: Claim) -> Outcome:
    """Postpone the verdict."""
    return Failed(claim, "no answer")


def unreadable(claim: Claim) -> Outcome:
    """Fail to read the file."""
    return Failed(claim, "the file cannot be read", unreadable=True)


def held(sealed: SealedDelivery) -> Verdict:
    """Let XNAT not archive the session."""
    return Held(sealed.delivery, "conflict")


def built(sealed: SealedDelivery) -> Verdict:
    """Leave the session in the prearchive."""
    return Built(sealed.delivery, sealed.delivery.uri or "")


def only(name: str, outcome: Callable[[Claim], Outcome]) -> Callable[[Claim], Outcome]:
    """Give one file this answer, and acknowledge the others."""
    return lambda claim: outcome(claim) if names([claim]) == [name] else stored(claim)
