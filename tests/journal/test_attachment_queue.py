"""The queue of attachments: the session of a file, what is queued for which resource, and results over several runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from journals import ROOT, Disk, archived, instance, opened, scan, send, session, stored

from asyncimport.journal import Journal, JournalReader
from asyncimport.journal.prune import Pruner
from asyncimport.model.attachments import Attachment, AttachmentBatch, AttachmentResult, AttachmentState
from asyncimport.model.deliveries import Built, Claim, Outcome, Refused, SealedDelivery, Verdict
from asyncimport.model.files import File, Ignored
from asyncimport.model.states import FileKind
from asyncimport.model.summary import AttachmentCounts, Summary
from asyncimport.routing.attachments import AttachRule, resource_of

E1, E2 = session("E1"), session("E2", subject="S2")
PDF = ("*.pdf=REPORTS",)
STORED, REFUSED, FAILED = AttachmentState.STORED, AttachmentState.REFUSED, AttachmentState.FAILED


def other(name: str, *, size: int = 5, mtime_ns: int = 1_000, kind: FileKind = FileKind.NOT_DICOM) -> Ignored:
    """Make a file below the root that is no image."""
    return Ignored(File(f"{ROOT}/{name}", size, mtime_ns), kind, "not DICOM")


def sent(attachment: Attachment) -> AttachmentResult:
    """Store it."""
    return AttachmentResult(attachment, STORED, md5=f"md5 of {attachment.file.size}", sent=True)


def there(attachment: Attachment) -> AttachmentResult:
    """Find it there, byte for byte."""
    return AttachmentResult(attachment, STORED, md5=f"md5 of {attachment.file.size}")


def refused(attachment: Attachment) -> AttachmentResult:
    """Refuse it."""
    return AttachmentResult(attachment, REFUSED, "no")


def failed(attachment: Attachment) -> AttachmentResult:
    """Come to no verdict on it."""
    return AttachmentResult(attachment, FAILED, "broken")


def take(journal: Journal, answer: Callable[[Attachment], AttachmentResult] = sent) -> list[Attachment]:
    """Do what the pipeline of attachments does, one after the other; return what was handed out."""
    handed: list[Attachment] = []
    while (enclosure := journal.attachments.claim()) is not None:
        handed += enclosure.attachments
        journal.attachments.record(enclosure, [answer(one) for one in enclosure.attachments])
    return handed


@dataclass
class Book:
    """A journal and a disk; each run finds all that is on the disk."""

    path: Path
    disk: Disk = field(default_factory=Disk)
    summary: Summary | None = None

    def run(
        self,
        *rules: str,
        answer: Callable[[Attachment], AttachmentResult] = sent,
        outcome: Callable[[Claim], Outcome] = stored,
        verdict: Callable[[SealedDelivery], Verdict] = archived,
        places: Sequence[str] = (ROOT,),
        roots: Sequence[str] | None = None,
        retry_refused: bool = False,
        relabel: bool = False,
        same: bool = True,
    ) -> list[str]:
        """Do one whole run; return what was handed out, by its name in the resource.

        `same` is whether moved files have the bytes of the stored ones of their name.
        """
        parsed = [AttachRule.parse(rule) for rule in rules or PDF]
        with opened(self.path, relabel=relabel) as journal:
            scan(journal, self.disk)
            send(journal, outcome, verdict=verdict)
            journal.attachments.assign(
                places,
                lambda path: resource_of(parsed, path.removeprefix(f"{ROOT}/")),
                roots=places if roots is None else roots,
                retry_refused=retry_refused,
            )
            journal.attachments.record_moves([file for file, _ in journal.attachments.possible_moves() if same])
            handed = [one.name for one in take(journal, answer)]
            self.summary = JournalReader.of(journal).summary()
        return handed

    @property
    def counts(self) -> dict[str, int]:
        """The counts of the last run that are not zero."""
        assert self.summary is not None
        counts = self.summary.attachments
        named = {name: getattr(counts, name) for name in AttachmentCounts.__dataclass_fields__}
        assert counts.found == sum(named.values())
        return {name: count for name, count in named.items() if count}

    @property
    def reasons(self) -> dict[str, str]:
        """Why attachments of the last run did not arrive, by the name of the example."""
        assert self.summary is not None
        problems = [problem for problem in self.summary.problems if problem.kind.startswith("attachment ")]
        return {Path(one.example).name: one.reason for one in problems}

    def names(self, label: str = "E1") -> dict[str, str]:
        """Return what the journal knows of a session's attachments: states by resource and name."""
        with JournalReader.open(self.path) as reader:
            return {f"{row.resource}/{row.name}": row.state for row in reader.attachments(label)}


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Make a journal that knows nothing yet, and a visit of two images in a directory of its own."""
    book = Book(tmp_path / "book")
    book.disk.put(instance("v1/dicom/1", E1), instance("v1/dicom/2", E1))
    return book


class TestWhose:
    """Which session a file belongs to."""

    @pytest.mark.parametrize(
        ("path", "name"),
        [
            ("v1/dicom/a.pdf", "a.pdf"),
            ("v1/a.pdf", "a.pdf"),
            ("v1/reports/a.pdf", "reports/a.pdf"),
            ("v1/reports/deep/ä b.pdf", "reports/deep/a_b.pdf"),
            ("v1/dicom/below/a.pdf", "below/a.pdf"),
        ],
    )
    def test_in_its_directory_above_beside_or_below(self, book: Book, path: str, name: str) -> None:
        """The name is relative to the directory that holds the file and all of the session's images."""
        book.disk.put(other(path), instance("v2/dicom/1", E2))
        assert book.run() == [name]
        assert book.names() == {f"REPORTS/{name}": "STORED"}
        assert book.counts == {"stored": 1}

    def test_a_session_in_several_directories(self, book: Book) -> None:
        """A file in one of them keeps that directory's name, so that equal names do not collide."""
        book.disk.put(instance("v1/more/3", E1), other("v1/dicom/a.pdf"), other("v1/more/a.pdf"), other("v1/a.pdf"))
        book.disk.put(instance("v2/1", E2))
        assert sorted(book.run()) == ["a.pdf", "dicom/a.pdf", "more/a.pdf"]

    def test_among_several_sessions(self, book: Book) -> None:
        """No session is guessed: the file is skipped with its reason, as is one without DICOM around it."""
        book.disk.put(instance("v1/dicom/3", E2), other("v1/dicom/a.pdf"))
        assert book.run() == []
        assert book.counts == {"skipped": 1}
        assert book.reasons["a.pdf"].startswith("its directory has files of several sessions")

    def test_above_several_sessions(self, book: Book) -> None:
        """The directory of all visits belongs to none of them."""
        book.disk.put(instance("v2/dicom/1", E2), other("a.pdf"), other("v2/b.pdf"))
        assert book.run() == ["b.pdf"]
        assert book.names("E2") == {"REPORTS/b.pdf": "STORED"}
        assert book.counts == {"stored": 1, "skipped": 1}

    def test_beside_nothing(self, tmp_path: Path) -> None:
        """Without an image around it, a file is skipped. The search does not leave the source."""
        book = Book(tmp_path / "book")
        book.disk.put(instance("v1/dicom/1", E1), other("v2/a.pdf"))
        assert book.run(places=[f"{ROOT}/v2", f"{ROOT}/v1"]) == []
        assert book.counts == {"skipped": 1}
        assert book.reasons["a.pdf"].startswith("no DICOM file is in its directory")

    def test_sources_that_are_files(self, book: Book) -> None:
        """A report given by itself is matched in its own directory only."""
        book.disk.put(other("v1/dicom/a.pdf"), other("v1/reports/b.pdf"))
        places = [f"{ROOT}/v1/dicom", f"{ROOT}/v1/dicom/a.pdf", f"{ROOT}/v1/reports/b.pdf"]
        assert book.run(places=places) == ["a.pdf"]
        assert book.counts == {"stored": 1, "skipped": 1}

    @pytest.mark.parametrize("where", ["v2/a.pdf", "v2/reports/a.pdf", "v2/dicom/a.pdf"])
    def test_beside_a_study_that_is_not_asked_for(self, book: Book, where: str) -> None:
        """It is not sent in this run, and not with the session next door."""
        book.disk.put(other("v2/dicom/1", kind=FileKind.EXCLUDED), other(where))
        assert book.run() == []
        assert book.counts == {}
        # Asked for later, both go.
        book.disk.put(instance("v2/dicom/1", E2))
        assert len(book.run()) == 1
        assert list(book.names("E2").values()) == ["STORED"]
        assert book.names("E1") == {}

    def test_beside_a_known_study_that_a_plan_leaves_out(self, book: Book) -> None:
        """Its images are there, though this run does not count them: the report is not asked for either."""
        book.disk.put(other("v1/a.pdf"))
        book.run("*.csv=DATA")
        with opened(book.path) as journal:
            journal.scan.postpone({}, [E1.study_uid])
            scan(journal, book.disk)
            assert journal.attachments.assign([ROOT], lambda _: "REPORTS") == 0
            assert JournalReader.of(journal).summary().attachments.found == 0
        assert book.run() == ["a.pdf"]

    def test_beside_a_study_that_is_skipped(self, book: Book) -> None:
        """The reason says so; the session next door does not get it."""
        book.disk.put(other("v2/dicom/1", kind=FileKind.SKIPPED), other("v2/a.pdf"))
        assert book.run() == []
        assert book.reasons["a.pdf"] == "the study in its directory is not sent"

    def test_beside_duplicates_only(self, book: Book) -> None:
        """Files next to the second copy of a visit belong to its session too, even with colliding names."""
        book.disk.put(*[instance(f"w/{number}", E1, sop=f"{E1.study_uid}.v1/dicom/{number}") for number in "12"])
        book.disk.put(other("v1/dicom/a.pdf"), other("w/a.pdf"))
        assert sorted(book.run()) == ["a.pdf", "w/a.pdf"]
        assert book.counts == {"stored": 2}

    def test_beside_unreadable_images(self, book: Book) -> None:
        """The readable header of a damaged file names its session."""
        damaged = Ignored(File(f"{ROOT}/v2/1", 9, 1_000), FileKind.UNREADABLE, "truncated", session=E1, damaged=True)
        book.disk.put(damaged, other("v2/a.pdf"))
        book.run()
        assert "REPORTS/a.pdf" in {name.replace("v2/", "") for name in book.names()}

    @pytest.mark.parametrize(
        ("kind", "details"),
        [
            (FileKind.CONTAINER, {}),
            (FileKind.UNREADABLE, {}),
            (FileKind.UNREADABLE, {"damaged": True}),
            (FileKind.UNREADABLE, {"session": E2, "sop_uid": "1.2.E2.1", "damaged": True}),
        ],
    )
    def test_files_of_unknown_sessions_count_as_another_session(
        self, book: Book, kind: FileKind, details: dict[str, Any]
    ) -> None:
        """A report next to them is skipped until all of them are readable."""
        strange = Ignored(File(f"{ROOT}/v1/more/1", 9, 1_000), kind, "no header", **details)
        book.disk.put(strange, other("v1/a.pdf"), other("v1/more/b.pdf"), other("v1/dicom/c.pdf"))
        assert book.run() == ["c.pdf"]
        assert book.counts == {"stored": 1, "skipped": 2}
        assert book.reasons["a.pdf"].startswith("its directory has files of several sessions")
        assert " in its directory " in book.reasons["b.pdf"]
        book.disk.put(instance("v1/more/1", E2))
        assert book.run() == ["b.pdf"]
        assert list(book.names("E2")) == ["REPORTS/b.pdf"]

    @pytest.mark.parametrize("kind", [FileKind.CONTAINER, FileKind.UNREADABLE])
    def test_vanished_files_of_unknown_sessions_do_not_count(self, book: Book, kind: FileKind) -> None:
        """Only files that this run has met do."""
        book.disk.put(other("v1/dicom/9", kind=kind), other("v1/a.pdf"))
        assert book.run() == []
        assert book.counts == {"skipped": 1}
        book.disk.remove("v1/dicom/9")
        assert book.run() == ["a.pdf"]

    def test_an_archive_file_may_be_an_attachment(self, book: Book) -> None:
        """It is an attachment, and no session; without its rule it is an archive file again."""
        book.disk.put(other("v1/dicom/raw.zip", kind=FileKind.CONTAINER), other("v1/a.pdf"))
        assert sorted(book.run("*.zip=RAW", "*.pdf=REPORTS")) == ["a.pdf", "raw.zip"]
        book.disk.put(other("v1/dicom/more.zip", kind=FileKind.CONTAINER), other("v1/b.pdf"))
        assert book.run("*.pdf=REPORTS") == []
        assert book.run("*.zip=RAW", "*.pdf=REPORTS") == ["more.zip", "b.pdf"]

    def test_two_of_one_name(self, book: Book) -> None:
        """Of two files with one name in XNAT the second is skipped, in later runs too."""
        book.disk.put(other("v1/dicom/a b.pdf"), other("v1/dicom/a_b.pdf"))
        assert book.run() == ["a_b.pdf"]
        assert book.counts == {"stored": 1, "skipped": 1}
        assert book.reasons["a_b.pdf"].startswith("another file of this session goes")
        assert book.run() == []
        assert book.counts == {"already_stored": 1, "skipped": 1}

    def test_what_cannot_be_stored(self, book: Book) -> None:
        """Empty files, and names that XNAT keeps for itself, are refused before anything is sent."""
        book.disk.put(other("v1/a.pdf", size=0), other("v1/b_catalog.xml"))
        assert book.run("*=X") == []
        assert book.counts == {"refused": 2}
        assert book.reasons["a.pdf"].startswith("it is empty")
        assert book.run("*=X") == []
        assert book.counts == {"already_refused": 2}

    def test_a_path_that_is_no_text(self, book: Book) -> None:
        """Any bytes come back as they were."""
        book.disk.put(other("v1/\udcff.pdf"))
        with opened(book.path) as journal:
            scan(journal, book.disk)
            send(journal)
            journal.attachments.assign([ROOT], lambda _: "R")
            (attachment,) = take(journal)
        assert (attachment.file.path, attachment.name) == (f"{ROOT}/v1/\udcff.pdf", "_.pdf")


class TestLaterRuns:
    """What another run does with known attachments."""

    def test_no_attachment_is_claimed_twice(self, book: Book) -> None:
        """A stored one counts for the earlier run."""
        book.disk.put(other("v1/a.pdf"), other("v1/b.csv"), other("v1/c.txt"))
        assert book.run("*.pdf=REPORTS", "*.csv=DATA") == ["b.csv", "a.pdf"]
        assert book.names() == {"REPORTS/a.pdf": "STORED", "DATA/b.csv": "STORED"}
        assert book.run("*.pdf=REPORTS", "*.csv=DATA") == []
        assert book.counts == {"already_stored": 2}
        assert book.summary is not None
        assert (book.summary.files.already_stored, book.summary.files.not_dicom) == (2, 1)

    def test_a_changed_file_is_compared_again(self, book: Book) -> None:
        """With what was stored; a file that was only touched stays the earlier run's."""
        book.disk.put(other("v1/a.pdf"))
        book.run()
        book.disk.touch("v1/a.pdf")
        seen: list[str | None] = []

        def look(attachment: Attachment) -> AttachmentResult:
            seen.append(attachment.previous)
            return there(attachment)

        assert book.run(answer=look) == ["a.pdf"]
        assert seen == ["md5 of 5"]
        assert book.counts == {"already_stored": 1}
        assert book.run() == []
        book.disk.touch("v1/a.pdf", size=7, mtime_ns=3_000)
        assert book.run() == ["a.pdf"]
        assert book.counts == {"stored": 1}

    def test_a_changed_file_that_is_refused(self, book: Book) -> None:
        """The journal still knows what XNAT stored, so that a later --replace may replace it."""
        book.disk.put(other("v1/a.pdf"))
        book.run()
        book.disk.touch("v1/a.pdf", size=7)
        assert book.run(answer=refused) == ["a.pdf"]
        assert book.counts == {"refused": 1}
        assert book.run() == []
        assert book.counts == {"already_refused": 1}
        # Not even new rules make one forget.
        assert book.run(relabel=True) == []
        previous: list[str | None] = []

        def replace(attachment: Attachment) -> AttachmentResult:
            previous.append(attachment.previous)
            return sent(attachment)

        assert book.run(answer=replace, retry_refused=True) == ["a.pdf"]
        assert previous == ["md5 of 5"]
        assert book.counts == {"stored": 1}

    def test_a_file_that_became_empty(self, book: Book) -> None:
        """It is refused, and nothing is sent in its place."""
        book.disk.put(other("v1/a.pdf"))
        book.run()
        book.disk.put(other("v1/a.pdf", size=0, mtime_ns=2_000))
        assert book.run() == []
        assert book.counts == {"refused": 1}

    def test_refused_and_failed(self, book: Book) -> None:
        """Failed ones are retried, refused ones on request or after a change only."""
        book.disk.put(other("v1/a.pdf"), other("v1/b.pdf"))

        def answer(attachment: Attachment) -> AttachmentResult:
            return refused(attachment) if attachment.name == "a.pdf" else failed(attachment)

        assert book.run(answer=answer) == ["a.pdf", "b.pdf"]
        assert book.counts == {"refused": 1, "failed": 1}
        assert book.reasons == {"a.pdf": "no", "b.pdf": "broken"}
        assert book.run() == ["b.pdf"]
        assert book.counts == {"already_refused": 1, "stored": 1}
        assert book.run(retry_refused=True, answer=refused) == ["a.pdf"]
        assert book.counts == {"already_stored": 1, "refused": 1}
        book.disk.touch("v1/a.pdf")
        assert book.run() == ["a.pdf"]

    def test_rules_that_change(self, book: Book) -> None:
        """Stored ones stay; the new rules decide about the others."""
        book.disk.put(other("v1/a.pdf"), other("v1/b.pdf"), other("v1/c.csv"))
        book.run("a.pdf=REPORTS", "*=OTHER", answer=lambda one: sent(one) if one.name == "a.pdf" else refused(one))
        assert book.counts == {"stored": 1, "refused": 2}
        assert book.run("*.pdf=MORE") == ["b.pdf"]
        assert book.counts == {"already_stored": 1, "stored": 1}
        assert book.names() == {"REPORTS/a.pdf": "STORED", "MORE/b.pdf": "STORED"}

    def test_a_visit_that_is_moved(self, book: Book) -> None:
        """Its images are recognised by their UIDs; its attachments, by their names, are compared and not sent."""
        book.disk.put(other("v1/a.pdf"), other("v1/reports/b.pdf"))
        book.run(answer=lambda one: sent(one) if one.name == "a.pdf" else failed(one))
        for name in ("dicom/1", "dicom/2", "a.pdf", "reports/b.pdf"):
            book.disk.move(f"v1/{name}", f"moved/{name}")
        handed: list[Attachment] = []

        def look(attachment: Attachment) -> AttachmentResult:
            handed.append(attachment)
            return there(attachment) if attachment.previous else sent(attachment)

        assert sorted(book.run(answer=look)) == ["a.pdf", "reports/b.pdf"]
        assert {one.file.path for one in handed} == {f"{ROOT}/moved/a.pdf", f"{ROOT}/moved/reports/b.pdf"}
        assert book.counts == {"stored": 1, "already_stored": 1}
        assert book.run() == []
        assert book.counts == {"already_stored": 2}

    def test_another_file_of_the_name_from_another_directory(self, book: Book) -> None:
        """It is another file, not the same one moved: both are reported, and the stored one must be there."""
        book.disk.put(other("v1/a b.pdf"))
        book.run()
        for name in ("dicom/1", "dicom/2", "a b.pdf"):
            book.disk.move(f"v1/{name}", f"tree2/{name.replace(' ', '_')}")
        assert book.run(same=False, retry_refused=True) == []
        assert book.counts == {"skipped": 1}
        assert book.reasons["a_b.pdf"].startswith("another file of this session goes")
        with JournalReader.open(book.path) as reader:
            (enclosure,) = reader.stored_attachment_batches()
        assert [(one.file.path, one.previous) for one in enclosure.attachments] == [(f"{ROOT}/v1/a b.pdf", "md5 of 5")]
        # Nor does it become so later; should it be the same bytes one day, it is.
        assert book.run(same=False) == []
        assert book.counts == {"skipped": 1}
        assert book.run(answer=there) == ["a_b.pdf"]
        assert book.counts == {"already_stored": 1}

    def test_another_size_is_another_file(self, book: Book) -> None:
        """No bytes are read for that."""
        book.disk.put(other("v1/a.pdf"))
        book.run()
        for name in ("dicom/1", "dicom/2", "a.pdf"):
            book.disk.move(f"v1/{name}", f"v2/{name}")
        book.disk.touch("v2/a.pdf", size=9)
        assert book.run(same=True) == []
        assert book.counts == {"skipped": 1}

    def test_refusals_of_the_server(self, book: Book) -> None:
        """The server's state may have changed: the next run tries again."""
        book.disk.put(other("v1/a.pdf"))
        assert book.run(answer=lambda one: AttachmentResult(one, REFUSED, "403", blames_server=True)) == ["a.pdf"]
        assert book.counts == {"refused": 1}
        assert book.run() == ["a.pdf"]
        assert book.counts == {"stored": 1}

    @pytest.mark.parametrize("answer", [sent, refused, failed])
    def test_a_run_that_was_killed_while_it_sent(
        self, book: Book, answer: Callable[[Attachment], AttachmentResult]
    ) -> None:
        """A part of the file may be there: later runs know it until one has stored the file."""
        book.disk.put(other("v1/a.pdf"))
        with opened(book.path) as journal:
            scan(journal, book.disk)
            send(journal)
            journal.attachments.assign([ROOT], lambda _: "REPORTS")
            enclosure = journal.attachments.claim()
            assert enclosure is not None
            assert not enclosure.attachments[0].is_started
            journal.attachments.start(enclosure.attachments)
        begun: list[bool] = []

        def look(attachment: Attachment) -> AttachmentResult:
            begun.append(attachment.is_started)
            return answer(attachment)

        book.run(answer=look)
        book.disk.touch("v1/a.pdf")
        book.run(answer=look)
        assert begun == [True, answer is failed]

    def test_pending_files_that_are_gone_fail(self, book: Book) -> None:
        """Stored files may vanish."""
        book.disk.put(other("v1/a.pdf"), other("v1/b.pdf"))
        book.run(answer=lambda one: sent(one) if one.name == "a.pdf" else failed(one))
        book.disk.remove("v1/a.pdf")
        book.disk.remove("v1/b.pdf")
        assert book.run() == []
        assert book.counts == {"failed": 1}
        assert book.reasons == {"b.pdf": "the file is gone"}
        # A run that asks for a part of the source cannot know.
        assert book.run(roots=()) == []
        assert book.counts == {}

    def test_the_session_is_not_archived_yet(self, book: Book) -> None:
        """The attachment stays queued until a run sees the session archived."""
        book.disk.put(other("v1/a.pdf"))

        def built(sealed: SealedDelivery) -> Verdict:
            return Built(sealed.delivery, "/prearchive/x")

        assert book.run(verdict=built) == []
        assert book.counts == {"left": 1}
        assert book.run() == ["a.pdf"]
        assert book.counts == {"stored": 1}

    def test_a_session_of_which_xnat_keeps_nothing(self, book: Book) -> None:
        """It gets no attachments."""
        book.disk.put(other("v1/a.pdf"))
        assert book.run(outcome=lambda claim: Refused(claim, "no")) == []
        assert book.counts == {"left": 1}

    def test_a_run_that_meets_other_files(self, book: Book) -> None:
        """A queued attachment that this run has not met is not handed out."""
        book.disk.put(other("v1/a.pdf"))
        book.run(answer=failed)
        with opened(book.path) as journal:
            journal.attachments.assign([ROOT], lambda _: "R")
            assert journal.attachments.has_unstored()
            assert journal.attachments.claim() is None

    def test_has_unattached(self, book: Book) -> None:
        """Only attachments that XNAT lacks make a run without rules look for them."""
        book.disk.put(other("v1/a.pdf"))
        with opened(book.path) as journal:
            assert not journal.attachments.has_unstored()
        book.run(answer=failed)
        with opened(book.path) as journal:
            assert journal.attachments.has_unstored()
        book.run()
        with opened(book.path) as journal:
            assert not journal.attachments.has_unstored()

    def test_a_run_that_was_killed(self, book: Book) -> None:
        """Attachments without a result are handed out again."""
        book.disk.put(other("v1/a.pdf"))
        with opened(book.path) as journal:
            scan(journal, book.disk)
            send(journal)
            journal.attachments.assign([ROOT], lambda _: "REPORTS")
            assert journal.attachments.claim() is not None
        assert book.run() == ["a.pdf"]

    def test_new_rules_of_routing(self, book: Book) -> None:
        """`--relabel` forgets attachments that XNAT does not have."""
        book.disk.put(other("v1/a.pdf"), other("v1/b.pdf"))
        book.run(answer=lambda one: sent(one) if one.name == "a.pdf" else refused(one))
        assert book.run(relabel=True) == ["b.pdf"]
        assert book.counts == {"already_stored": 1, "stored": 1}


class TestHandedOut:
    """Batches of resources, one at a time each."""

    def claims(self, journal: Journal) -> list[AttachmentBatch]:
        """Take all batches that are available now."""
        found = []
        while (enclosure := journal.attachments.claim()) is not None:
            found.append(enclosure)
        return found

    def test_a_resource_to_one_at_a_time(self, book: Book) -> None:
        """Other resources continue meanwhile; the rest of one follows when its first batch has results."""
        book.disk.put(*[other(f"v1/{number:04}.pdf") for number in range(1_201)], other("v1/a.csv"))
        book.disk.put(instance("v2/1", E2), other("v2/b.pdf"))
        with opened(book.path) as journal:
            scan(journal, book.disk)
            send(journal)
            rules = [AttachRule.parse(text) for text in ("*.pdf=REPORTS", "*.csv=DATA")]
            assert journal.attachments.assign([ROOT], lambda path: resource_of(rules, path)) == 1_203
            found = self.claims(journal)
            assert sorted((one.resource.owner.session, one.resource.label, len(one.attachments)) for one in found) == [
                ("E1", "DATA", 1),
                ("E1", "REPORTS", 500),
                ("E2", "REPORTS", 1),
            ]
            place = found[0].resource.owner
            assert (place.project, place.subject, place.study_uid, place.scan) == ("P", "S1", E1.study_uid, "")
            handed = [one.name for enclosure in found for one in enclosure.attachments]
            for size in (500, 201):
                reports = next(
                    one for one in found if (one.resource.label, one.resource.owner.session) == ("REPORTS", "E1")
                )
                journal.attachments.record(reports, [sent(one) for one in reports.attachments])
                found = self.claims(journal)
                assert [len(one.attachments) for one in found] == [size]
                handed += [one.name for one in found[0].attachments]
            assert len(handed) == len(set(handed)) == 1_203
            journal.attachments.record(found[0], [sent(one) for one in found[0].attachments])
            assert self.claims(journal) == []

    def test_a_batch_has_a_limit_of_bytes(self, book: Book) -> None:
        """Large files come a few at a time; a file above the limit comes alone."""
        sizes = (300 << 20, 100 << 20, 100 << 20, 100 << 20)
        book.disk.put(*[other(f"v1/{number}.pdf", size=size) for number, size in enumerate(sizes)])
        batches = []
        with opened(book.path) as journal:
            scan(journal, book.disk)
            send(journal)
            journal.attachments.assign([ROOT], lambda _: "R")
            while (enclosure := journal.attachments.claim()) is not None:
                batches.append([one.name for one in enclosure.attachments])
                journal.attachments.record(enclosure, [sent(one) for one in enclosure.attachments])
        assert batches == [["0.pdf"], ["1.pdf", "2.pdf"], ["3.pdf"]]

    def test_attachments_that_the_archive_lacks_are_sent_again(self, book: Book) -> None:
        """And no others."""
        book.disk.put(other("v1/a.pdf"), other("v1/b.pdf"))
        book.run()
        with JournalReader.open(book.path) as reader:
            (enclosure,) = reader.stored_attachment_batches()
        assert [(one.name, one.previous) for one in enclosure.attachments] == [
            ("a.pdf", "md5 of 5"),
            ("b.pdf", "md5 of 5"),
        ]
        with opened(book.path) as journal:
            journal.attachments.requeue([enclosure.attachments[1].key])
            assert [one.name for one in take(journal)] == ["b.pdf"]
        assert book.names() == {"REPORTS/a.pdf": "STORED", "REPORTS/b.pdf": "STORED"}

    @pytest.mark.parametrize("end", [refused, failed, None])
    def test_a_repair_that_failed(self, book: Book, end: Callable[[Attachment], AttachmentResult] | None) -> None:
        """Whatever its result, even a kill: a stored attachment must be there for each later check."""
        book.disk.put(other("v1/a.pdf"))
        book.run()
        for _ in range(2):
            with JournalReader.open(book.path) as reader:
                (enclosure,) = reader.stored_attachment_batches()
            (attachment,) = enclosure.attachments
            assert (attachment.name, attachment.previous, attachment.previous_size) == ("a.pdf", "md5 of 5", 5)
            with opened(book.path) as journal:
                journal.attachments.requeue([attachment.key])
                claimed = journal.attachments.claim()
                assert claimed is not None
                if end is not None:
                    journal.attachments.record(claimed, [end(attachment)])
        # It has changed since: what was stored is what it was.
        book.disk.touch("v1/a.pdf", size=9)
        book.run(answer=refused)
        with JournalReader.open(book.path) as reader:
            (enclosure,) = reader.stored_attachment_batches()
        assert [(one.file.size, one.previous_size) for one in enclosure.attachments] == [(5, 5)]


class TestForgetting:
    """What `forget` does with attachments."""

    def test_a_session(self, book: Book) -> None:
        """It is forgotten with its attachments, and sent again as a whole."""
        book.disk.put(other("v1/a.pdf"), instance("v2/1", E2), other("v2/b.pdf"))
        book.run()
        with Pruner.of(book.path) as pruner:
            pruner.find_sessions("E1")
            pruner.prune()
        assert book.names("E1") == {}
        assert book.names("E2") == {"REPORTS/b.pdf": "STORED"}
        assert book.run() == ["a.pdf"]
        assert book.counts == {"stored": 1, "already_stored": 1}

    def test_files_that_are_gone(self, tmp_path: Path) -> None:
        """Attachments that were not stored are forgotten with their files; stored ones stay, to be verified."""
        root = tmp_path / "src"
        root.mkdir()
        (root / "still here").touch()
        book = Book(tmp_path / "book")
        files = {name: File(str(root / name), 5, 1_000) for name in ("1", "a.pdf", "b.pdf")}
        item = instance("1", E1)
        book.disk.put(type(item)(files["1"], item.sop_uid, item.series_uid, E1))
        book.disk.put(*[Ignored(files[name], FileKind.NOT_DICOM, "not DICOM") for name in ("a.pdf", "b.pdf")])
        with opened(book.path) as journal:
            scan(journal, book.disk)
            send(journal)
            journal.attachments.assign([str(root)], lambda path: "R" if path.endswith(".pdf") else None)
            take(journal, lambda one: sent(one) if one.name == "a.pdf" else failed(one))
            # A repair has begun with it.
            (enclosure,) = JournalReader.of(journal).stored_attachment_batches()
            journal.attachments.requeue([one.key for one in enclosure.attachments])
        with Pruner.of(book.path) as pruner:
            pruner.find_gone()
            assert {Path(matter.example).name for matter in pruner.found} == {"b.pdf"}
            pruner.prune()
        assert book.names() == {"R/a.pdf": "PENDING"}
