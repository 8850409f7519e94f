"""Demographics on the test XNAT: before the import, after archiving, and with every fault."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
import anyio
import pytest
from aiohttp import web
from builders import AT_ONCE, image, listening, logged_in, upload, write
from yarl import URL

from asyncimport.demographics.fields import NULL
from asyncimport.demographics.table import Demographics
from asyncimport.errors import ProjectMissingError, RefusedError, TransientError, UnavailableError
from asyncimport.testserver import Project, TestXnat, User
from asyncimport.xnat.client import Client
from asyncimport.xnat.site import find_project
from asyncimport.xnat.subjects import SubjectError, Subjects, SubjectUpdated, update_all

pytestmark = pytest.mark.anyio

GIVEN = {"gender": "female", "dob": "1970-01-31", "weight": "150.5", "race": "a & b/ü=[x]", "group": "control"}

_WRITING = {"PUT", "POST"}


@dataclass
class Wire:
    """The requests to an XNAT, some of which may be answered here instead."""

    url: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    instead: Callable[[str, str], web.Response | None] = lambda _method, _path: None
    under_way: int = 0
    most: int = 0

    @property
    def puts(self) -> list[str]:
        """The addresses of all calls that create or change subjects."""
        return [path for method, path in self.calls if method in _WRITING and "/subjects" in path]


@asynccontextmanager
async def wired(url: str) -> AsyncIterator[Wire]:
    """Serve a relay to an XNAT that records requests."""
    wire = Wire()

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        wire.calls.append((request.method, request.raw_path))
        wire.bodies.append(body)
        wire.under_way += "/subjects/" in request.raw_path
        wire.most = max(wire.most, wire.under_way)
        try:
            if answer := wire.instead(request.method, request.raw_path):
                return answer
            headers = {name: value for name, value in request.headers.items() if name not in {"Host", "Content-Length"}}
            target = URL(f"{url}{request.raw_path}", encoded=True)
            async with http.request(
                request.method, target, data=body, headers=headers, allow_redirects=False
            ) as response:
                kept = {
                    name: response.headers[name] for name in ("Content-Type", "Location") if name in response.headers
                }
                copy = web.Response(status=response.status, body=await response.read(), headers=kept)
                copy.headers.extend(("Set-Cookie", value) for value in response.headers.getall("Set-Cookie", []))
                return copy
        finally:
            wire.under_way -= "/subjects/" in request.raw_path

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http, listening(relay) as address:
        wire.url = address
        yield wire


@pytest.fixture
async def wire(url: str) -> AsyncIterator[Wire]:
    """Give a relay to the test XNAT."""
    async with wired(url) as made:
        yield made
        # At `label` XNAT stops reading, and a body would be read in place of the query.
        puts = [(path, body) for (method, path), body in zip(made.calls, made.bodies, strict=True) if method == "PUT"]
        assert [path for path, _ in puts if "label" in parse_qs(urlsplit(path).query)] == []
        assert [body for _, body in puts if body] == []
        # What is there is called by its ID alone, which no label can be taken for.
        assert [path for path, _ in puts if not path.startswith("/data/subjects/")] == []


@pytest.fixture
async def client(wire: Wire) -> AsyncIterator[Client]:
    """Log in through the relay."""
    async with logged_in(wire.url) as made:
        yield made


def wish(subject: str = "S1", project: str = "demo", /, **values: str) -> Demographics:
    """Make the demographics of a subject."""
    return Demographics(subject, values or GIVEN, project)


def held(xnat: TestXnat, subject: str = "S1") -> dict[str, str]:
    """Return the values that the test XNAT has of a subject."""
    found = xnat.subject("demo", subject)
    assert found is not None
    return {name: str(value) for name, value in {**found.demographics, **found.fields}.items()}


async def archived(url: str, tmp_path: Path, label: str) -> None:
    """Archive a session of a subject."""
    write(tmp_path / "dicom" / "1.dcm", image(1, PatientID=label))
    summary = await upload(url, [tmp_path / "dicom"], tmp_path / "journal")
    assert summary.count("archived") == 1


class TestWhen:
    """One call works before the import and after it."""

    async def test_before_the_import(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The subject is created with all values; a second call sends nothing."""
        subjects = Subjects(client, AT_ONCE)
        done = await subjects.update(wish())
        assert done.created
        assert done.state == "created"
        assert set(done.written) == set(GIVEN)
        assert done.accession == xnat.subject("demo", "S1").id  # type: ignore[union-attr]
        assert (held(xnat)["gender"], held(xnat)["dob"], held(xnat)["group"]) == ("female", "1970-01-31", "control")
        again = await Subjects(client, AT_ONCE).update(wish())
        assert again.agrees
        assert set(again.unchanged) == set(GIVEN)
        assert len(wire.puts) == 1

    async def test_after_archiving(self, xnat: TestXnat, wire: Wire, client: Client, tmp_path: Path) -> None:
        """The subject that the archive step created gets the values, and keeps its session."""
        await archived(wire.url, tmp_path, "S1")
        done = await Subjects(client, AT_ONCE).update(wish())
        assert not done.created
        assert set(done.written) == set(GIVEN)
        assert held(xnat)["gender"] == "female"
        assert len(xnat.subjects("demo")) == 1

    async def test_before_and_after(self, xnat: TestXnat, wire: Wire, client: Client, tmp_path: Path) -> None:
        """Values from before the import stay, and can be changed."""
        subjects = Subjects(client, AT_ONCE, overwrite=True)
        await subjects.update(wish(gender="female"))
        await archived(wire.url, tmp_path, "S1")
        done = await subjects.update(wish(gender="male", age="34"))
        assert (set(done.written), [one.name for one in done.replaced]) == ({"gender", "age"}, ["gender"])
        assert (held(xnat)["gender"], held(xnat)["age"]) == ("male", "34")

    async def test_the_call_that_does_not_work_after_archiving(
        self, xnat: TestXnat, wire: Wire, client: Client
    ) -> None:
        """XNAT stops reading at `label`, answers 200 and saves nothing; that is an error."""
        xnat.add_subject("demo", "S1")

        def add_label(method: str, _path: str) -> web.Response | None:
            return web.Response(status=200) if method == "PUT" else None

        wire.instead = add_label
        with pytest.raises(RefusedError, match="saved nothing"):
            await Subjects(client, AT_ONCE).update(wish())


class TestLabels:
    """Labels are matched as the archive step matches them."""

    @pytest.mark.parametrize(
        ("there", "given"), [("SUB1", "sub1"), ("sub1", "SUB1"), ("a_b", "a.b"), ("A_B", "a.b"), ("S_1", "S 1")]
    )
    async def test_other_spellings(self, xnat: TestXnat, client: Client, there: str, given: str) -> None:
        """Other letter case, or characters that XNAT replaces, create no second subject."""
        xnat.add_subject("demo", there)
        done = await Subjects(client, AT_ONCE).update(wish(given, gender="male"))
        assert (done.label, done.subject, done.created) == (there, given, False)
        assert [one.label for one in xnat.subjects("demo")] == [there]
        assert held(xnat, there) == {"gender": "male"}

    async def test_the_exact_spelling_is_preferred(self, xnat: TestXnat, client: Client) -> None:
        """Of two subjects each has its own label."""
        xnat.add_subject("demo", "SUB1")
        xnat.add_subject("demo", "sub1")
        subjects = Subjects(client, AT_ONCE)
        await subjects.update(wish("sub1", gender="male"))
        await subjects.update(wish("SUB1", gender="female"))
        assert (held(xnat, "sub1"), held(xnat, "SUB1")) == ({"gender": "male"}, {"gender": "female"})

    async def test_a_subject_that_was_just_created(self, xnat: TestXnat, client: Client) -> None:
        """It is found without another listing."""
        subjects = Subjects(client, AT_ONCE)
        await subjects.update(wish("sub1", gender="male"))
        await subjects.update(wish("SUB1", age="34"))
        assert [one.label for one in xnat.subjects("demo")] == ["sub1"]

    async def test_a_subject_that_others_create_later(self, xnat: TestXnat, client: Client) -> None:
        """It is found at once by its exact label, by another spelling after the next listing."""
        subjects = Subjects(client, AT_ONCE)
        assert await subjects.find("demo", "SUB1") is None
        xnat.add_subject("demo", "sub1")
        subjects.forget("demo")
        assert not (await subjects.update(wish("SUB1", gender="male"))).created
        xnat.add_subject("demo", "later")
        assert not (await subjects.update(wish("later", gender="male"))).created

    async def test_an_invalid_label(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """XNAT would fail to save it, without a reason."""
        with pytest.raises(RefusedError, match="the character"):
            await Subjects(client, AT_ONCE).update(wish("a.b", gender="male"))
        assert (wire.puts, xnat.subjects("demo")) == ([], [])

    async def test_the_id_of_another_subject(self, wire: Wire, client: Client) -> None:
        """XNAT looks for accession IDs in all projects before it looks for labels (SubjectResource.represent)."""
        item = {"meta": {}, "children": [], "data_fields": {"ID": "XNAT_S00007", "label": "X", "project": "other"}}
        wire.instead = lambda method, path: (
            web.json_response({"items": [item]}) if method == "GET" and "XNAT_S00007" in path else None
        )
        with pytest.raises(RefusedError, match="accession ID of another subject"):
            await Subjects(client, AT_ONCE).update(wish("XNAT_S00007", gender="female"))
        assert wire.puts == []

    async def test_a_deleted_subject(self, xnat: TestXnat, client: Client) -> None:
        """A subject that was deleted after the listing is missing."""
        subjects = Subjects(client, AT_ONCE, only_existing=True)
        deleted = xnat.add_subject("demo", "S1")
        assert await subjects.find("demo", "S1") is not None
        xnat.remove_subject(deleted)
        with pytest.raises(RefusedError, match="no such subject"):
            await subjects.update(wish(gender="male"))
        assert await subjects.find("demo", "S1") is None
        assert (await Subjects(client, AT_ONCE).update(wish(gender="male"))).created

    @pytest.mark.parametrize("times", [1, 99])
    async def test_a_hidden_subject_gets_no_twin(self, xnat: TestXnat, wire: Wire, client: Client, times: int) -> None:
        """A 404 for a listed subject is transient; `sub1` is not created beside `SUB1`."""
        there = xnat.add_subject("demo", "SUB1", gender="male").id
        unseen: list[str] = []

        def hide(method: str, path: str) -> web.Response | None:
            if method != "GET" or there not in path or len(unseen) == times:
                return None
            unseen.append(path)
            return web.Response(status=404, text="<h3>gone</h3>", content_type="text/html")

        wire.instead = hide
        (done,) = await update_all(Subjects(client, AT_ONCE), [wish("sub1", gender="male", age="34")])
        assert [one.label for one in xnat.subjects("demo")] == ["SUB1"]
        if times == 1:
            assert isinstance(done, SubjectUpdated)
            assert (done.label, done.written) == ("SUB1", ("age",))
        else:
            assert isinstance(done, SubjectError)
            assert (done.state, wire.puts) == ("failed", [])

    async def test_an_id_that_is_the_label_of_another(self, xnat: TestXnat, client: Client) -> None:
        """XNAT reads by ID first and writes by label first, so it could confuse the two."""
        first, second = xnat.add_subject("demo", "S1"), xnat.add_subject("demo", "S2", gender="male", race="x")
        xnat.rename_subject(second, first.id)
        xnat.rename_subject(first, second.id)
        done = await Subjects(client, AT_ONCE).update(wish(second.id, gender="female"))
        assert (done.accession, done.written) == (first.id, ("gender",))
        assert first.demographics == {"gender": "female"}
        assert second.demographics == {"gender": "male", "race": "x"}
        done = await Subjects(client, AT_ONCE).update(wish(first.id, gender="female", age="34"))
        assert (done.accession, done.written, [one.name for one in done.kept]) == (second.id, ("age",), ["gender"])
        assert first.demographics == {"gender": "female"}

    async def test_the_id_of_a_subject_of_another_project(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """XNAT shows it in any project; its demographics are not set."""
        xnat.add_project(Project("other"))
        theirs = xnat.add_subject("other", "S1")
        with pytest.raises(RefusedError, match="accession ID of another subject"):
            await Subjects(client, AT_ONCE).update(wish(theirs.id, gender="female"))
        assert (wire.puts, theirs.demographics, xnat.subjects("demo")) == ([], {}, [])

    async def test_two_subjects_that_differ_in_case(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """If the label is exactly that of one, the other is named; else the label is ambiguous."""
        xnat.add_subject("demo", "SUB1")
        xnat.add_subject("demo", "sub1")
        (done,) = await update_all(Subjects(client, AT_ONCE, dry_run=True), [wish("sub1", gender="male")])
        assert isinstance(done, SubjectUpdated)
        assert (done.label, done.alike) == ("sub1", ("SUB1",))
        (told,) = await update_all(Subjects(client, AT_ONCE), [wish("Sub1", gender="male")])
        assert isinstance(told, SubjectError)
        assert (told.state, wire.puts) == ("refused", [])
        assert "SUB1 is XNAT_S00001" in told.reason

    async def test_two_runs_that_create_twins(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """XNAT creates `s1` beside `S1`, because it compares letter case; both runs report it at the end."""

        def race(method: str, path: str) -> web.Response | None:
            if method == "POST" and "/subjects" in path and not xnat.subjects("demo"):
                xnat.add_subject("demo", "s1", gender="male")
            return None

        wire.instead = race
        (done,) = await update_all(Subjects(client, AT_ONCE), [wish("S1", gender="female")])
        assert isinstance(done, SubjectUpdated)
        assert (done.created, done.label, done.alike) == (True, "S1", ("s1",))

    async def test_a_subject_that_gets_another_label(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """Between the listing and the update, the label moves to another subject."""
        first, second = xnat.add_subject("demo", "S1"), xnat.add_subject("demo", "S2")

        def swap(method: str, path: str) -> web.Response | None:
            if method == "GET" and first.id in path and first.label == "S1":
                xnat.rename_subject(first, "S3")
                xnat.rename_subject(second, "S1")
            return None

        wire.instead = swap
        done = await Subjects(client, AT_ONCE).update(wish("S1", gender="male"))
        assert (done.accession, second.demographics, first.demographics) == (second.id, {"gender": "male"}, {})

    async def test_a_shared_subject(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """It is compared, but changed only in its own project."""
        xnat.add_project(Project("home"))
        shared = xnat.add_subject("home", "H1", gender="male")
        xnat.share(shared, "demo", "S1")
        (same,) = await update_all(Subjects(client, AT_ONCE), [wish("S1", gender="male")])
        assert isinstance(same, SubjectUpdated)
        assert (same.state, same.accession) == ("unchanged", shared.id)
        for dry_run in (True, False):
            (told,) = await update_all(
                Subjects(client, AT_ONCE, dry_run=dry_run), [wish("S1", gender="male", age="34")]
            )
            assert isinstance(told, SubjectError)
            assert told.reason == "the subject belongs to project home: set its demographics there"
        assert (wire.puts, shared.demographics) == ([], {"gender": "male"})
        done = await Subjects(client, AT_ONCE).update(wish("H1", "home", gender="male", age="34"))
        assert done.written == ("age",)

    async def test_custom_fields_stay(self, xnat: TestXnat, client: Client) -> None:
        """A site's own variables are not our fields."""
        there = xnat.add_subject("demo", "S1")
        there.custom |= {"gender": "x", "site": "y"}
        done = await Subjects(client, AT_ONCE, overwrite=True).update(wish(gender="female"))
        assert (done.written, done.replaced) == (("gender",), ())
        assert (there.custom, there.demographics) == ({"gender": "x", "site": "y"}, {"gender": "female"})


class TestWhatIsThere:
    """Existing values."""

    async def test_kept(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """They stay, the differing field is named, and missing fields are written."""
        xnat.add_subject("demo", "S1", gender="male", weight=150.5)
        done = await Subjects(client, AT_ONCE).update(wish())
        assert [one.name for one in done.kept] == ["gender"]
        assert (done.unchanged, set(done.written)) == (("weight",), {"dob", "race", "group"})
        assert held(xnat)["gender"] == "male"
        assert "gender" not in wire.puts[0]

    async def test_overwritten(self, xnat: TestXnat, client: Client) -> None:
        """Only they are replaced."""
        xnat.add_subject("demo", "S1", gender="male", handedness="left")
        done = await Subjects(client, AT_ONCE, overwrite=True).update(wish(gender="female"))
        assert [(one.name, one.ours, one.theirs) for one in done.replaced] == [("gender", "female", "male")]
        assert held(xnat) == {"gender": "female", "handedness": "left"}

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_one_birth(self, xnat: TestXnat, wire: Wire, client: Client, overwrite: bool) -> None:
        """A dob does not join an existing yob: it is kept out, or replaces it."""
        xnat.add_subject("demo", "S1", yob=1970)
        done = await Subjects(client, AT_ONCE, overwrite=overwrite).update(wish(dob="1970-01-31"))
        if overwrite:
            assert (held(xnat), done.written) == ({"dob": "1970-01-31"}, ("dob",))
        else:
            assert (held(xnat), wire.puts) == ({"yob": "1970"}, [])
            assert [(one.name, one.instead) for one in done.kept] == [("dob", "yob")]

    @pytest.mark.parametrize("overwrite", [False, True])
    async def test_null(self, xnat: TestXnat, client: Client, overwrite: bool) -> None:
        """It clears a field, if values may be replaced."""
        xnat.add_subject("demo", "S1", race="x", gender="male")
        subjects = Subjects(client, AT_ONCE, overwrite=overwrite)
        done = await subjects.update(wish(race=NULL, ethnicity=NULL))
        assert held(xnat) == ({"gender": "male"} if overwrite else {"race": "x", "gender": "male"})
        assert (done.written, [one.name for one in done.kept]) == ((("race",), []) if overwrite else ((), ["race"]))
        assert (await subjects.update(wish(race=NULL))).agrees is overwrite

    async def test_nothing_given(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """A row of empty cells creates no subject."""
        done = await Subjects(client, AT_ONCE).update(Demographics("S1", {}, "demo"))
        assert (done.state, wire.puts, xnat.subjects("demo")) == ("unchanged", [], [])

    async def test_compared_only(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """A dry run reports what would happen, and sends nothing."""
        xnat.add_subject("demo", "S1", gender="male", group="x")
        demographics = [wish(), wish("S2", gender="male"), wish("S1", gender="male")]
        first, second, third = await update_all(Subjects(client, AT_ONCE, dry_run=True, overwrite=True), demographics)
        assert isinstance(first, SubjectUpdated)
        assert isinstance(second, SubjectUpdated)
        assert isinstance(third, SubjectUpdated)
        assert {one.name for one in first.replaced} >= {"gender"}
        assert (first.agrees, first.state) == (False, "updated")
        assert (second.state, second.accession) == ("created", "")
        assert third.agrees
        assert wire.puts == []

    async def test_only_existing(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """A missing subject is not created."""
        xnat.add_subject("demo", "S2")
        subjects = Subjects(client, AT_ONCE, only_existing=True)
        with pytest.raises(RefusedError, match="no such subject"):
            await subjects.update(wish())
        assert (await subjects.update(wish("S2"))).state == "updated"
        assert len(wire.puts) == 1


class TestRights:
    """Rights."""

    @pytest.fixture
    def site(self, xnat: TestXnat) -> TestXnat:
        """Let the demo user create, but not change, subjects in one project, and neither in another."""
        xnat.add_user(User("owner", "x"))
        xnat.add_project(Project("make", editors=["owner"], creators=["demo", "owner"], readers=["demo"]))
        xnat.add_project(Project("read", editors=["owner"], readers=["demo"]))
        xnat.add_subject("make", "S1")
        xnat.add_subject("read", "S1")
        return xnat

    async def test_the_right_to_create_but_not_to_change(self, site: TestXnat, client: Client) -> None:
        """It is enough before the import, but not after it."""
        subjects = Subjects(client, AT_ONCE)
        assert (await subjects.update(wish("S2", "make", gender="male"))).created
        for subject in ("S1", "S2"):
            with pytest.raises(RefusedError, match="let this user edit subjects") as caught:
                await subjects.update(wish(subject, "make", age="34"))
            assert caught.value.whole_session
        assert site.subject("make", "S1").demographics == {}  # type: ignore[union-attr]

    @pytest.mark.usefixtures("site")
    async def test_no_right(self, client: Client) -> None:
        """Each error names the missing right."""
        demographics = [wish("S1", "read"), wish("S2", "read")]
        edit, create = await update_all(Subjects(client, AT_ONCE), demographics)
        assert isinstance(edit, SubjectError)
        assert isinstance(create, SubjectError)
        assert (edit.no_right, create.no_right) == (True, True)
        assert "edit" in edit.reason
        assert "create" in create.reason

    async def test_projects(self, client: Client) -> None:
        """A hidden project counts as missing."""
        assert await find_project(client, "demo", AT_ONCE) == "demo"
        with pytest.raises(ProjectMissingError):
            await find_project(client, "nope", AT_ONCE)

    async def test_a_site_that_requires_reasons(self, xnat: TestXnat, client: Client) -> None:
        """Without a reason the update fails, with one it works."""
        xnat.needs_reason = True
        xnat.add_subject("demo", "S1")
        with pytest.raises(TransientError, match="--event-reason"):
            await Subjects(client, AT_ONCE).update(wish())
        assert (await Subjects(client, AT_ONCE, event_reason="entry & more").update(wish())).state == "updated"
        assert held(xnat)["gender"] == "female"
        with pytest.raises(TransientError, match="--event-reason"):
            await Subjects(client, AT_ONCE).update(wish("S2"))
        assert (await Subjects(client, AT_ONCE, event_reason="entry").update(wish("S2"))).state == "created"

    async def test_a_locked_subject(self, xnat: TestXnat, client: Client) -> None:
        """It is refused, and the reason names the lock; the others are updated."""
        xnat.add_subject("demo", "S1").locked = True
        told, done = await update_all(Subjects(client, AT_ONCE), [wish("S1"), wish("S2")])
        assert isinstance(told, SubjectError)
        assert "locked" in told.reason
        assert done.state == "created"


class TestTrouble:
    """Faults."""

    async def test_others_go_on(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """A refused and a failed subject stop no others."""
        for number in range(1, 6):
            xnat.add_subject("demo", f"S{number}")
        refused, failed = (xnat.subject("demo", name).id for name in ("S2", "S4"))  # type: ignore[union-attr]

        def instead(method: str, path: str) -> web.Response | None:
            if method == "PUT" and refused in path:
                text = "<h3>gender : 'planted' Must Match Pre-Defined Values...(male)</h3>"
                return web.Response(status=400, text=text, content_type="text/html")
            if method == "PUT" and failed in path:
                return web.Response(status=500, text="<h3>planted</h3>", content_type="text/html")
            return None

        wire.instead = instead
        seen: list[str] = []
        demographics = [wish(f"S{number}", gender="male") for number in range(1, 6)]
        done = await update_all(Subjects(client, AT_ONCE), demographics, report=lambda one: seen.append(one.subject))
        assert [one.state for one in done] == ["updated", "refused", "updated", "failed", "updated"]
        assert sorted(seen) == ["S1", "S2", "S3", "S4", "S5"]
        assert "planted" not in repr(done)
        assert "gender: must match" in done[1].reason  # type: ignore[union-attr]

    async def test_what_does_not_arrive(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """XNAT answers with the subject's ID, but has dropped a field."""
        accession = xnat.add_subject("demo", "S1", gender="male").id
        wire.instead = lambda method, _path: web.Response(text=accession) if method == "PUT" else None
        with pytest.raises(TransientError, match="does not show what was sent: race"):
            await Subjects(client, AT_ONCE).update(wish(gender="male", race="x"))
        assert len(wire.puts) == AT_ONCE.file_attempts

    async def test_a_lost_answer(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The subject is read again, and the result is what the call did."""
        lost: list[str] = []

        def lose(method: str, path: str) -> web.Response | None:
            if method == "POST" and "/subjects" in path and not lost:
                lost.append(path)
                xnat.add_subject("demo", "S1", gender="male")
                return web.Response(status=504)
            return None

        wire.instead = lose
        done = await Subjects(client, AT_ONCE).update(wish(gender="male"))
        assert (done.state, done.written) == ("created", ("gender",))
        assert len(wire.puts) == 1

    async def test_values_that_others_set_meanwhile_stay(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """After an interrupted call the subject is read again, and others' values are kept."""
        there = xnat.add_subject("demo", "S1")
        lost: list[str] = []

        def lose(method: str, path: str) -> web.Response | None:
            if method == "PUT" and not lost:
                lost.append(path)
                there.demographics |= {"gender": "male", "yob": 1970}
                return web.Response(status=504)
            return None

        wire.instead = lose
        done = await Subjects(client, AT_ONCE).update(wish(gender="female", dob="1980-01-31", race="x"))
        assert (done.written, [one.name for one in done.kept]) == (("race",), ["gender", "dob"])
        assert there.demographics == {"gender": "male", "yob": 1970, "race": "x"}

    async def test_replaced_values_of_others_are_reported(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The interrupted call had nothing to replace, but the next one has."""

        def lose(method: str, path: str) -> web.Response | None:
            if method == "POST" and "/subjects" in path and not xnat.subjects("demo"):
                xnat.add_subject("demo", "S1", gender="male", yob=1970)
                return web.Response(status=504)
            return None

        wire.instead = lose
        done = await Subjects(client, AT_ONCE, overwrite=True).update(wish(gender="female", dob="1980-01-31"))
        assert (done.state, [one.name for one in done.replaced]) == ("updated", ["gender", "dob"])
        assert held(xnat) == {"gender": "female", "dob": "1980-01-31"}

    async def test_a_label_that_moves_during_an_interruption(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The values of the former subject do not count for the new one."""
        there = xnat.add_subject("demo", "S1", gender="female")

        def lose(method: str, _path: str) -> web.Response | None:
            if method == "PUT" and there.label == "S1":
                xnat.rename_subject(there, "S0")
                return web.Response(status=504)
            return None

        wire.instead = lose
        done = await Subjects(client, AT_ONCE).update(wish(gender="female", race="x"))
        assert (done.state, done.unchanged, set(done.written)) == ("created", (), {"gender", "race"})
        assert held(xnat) == {"gender": "female", "race": "x"}
        assert there.demographics == {"gender": "female"}

    async def test_a_failed_read_after_the_update(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The fields count as written, although it took two reads."""
        xnat.add_subject("demo", "S1")
        refusals: list[str] = []

        def refuse(method: str, path: str) -> web.Response | None:
            if method == "GET" and wire.puts and not refusals:
                refusals.append(path)
                return web.Response(status=503)
            return None

        wire.instead = refuse
        done = await Subjects(client, AT_ONCE).update(wish(gender="male"))
        assert (done.state, done.written, len(wire.puts)) == ("updated", ("gender",), 1)

    async def test_a_subject_that_does_not_show(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The answer to the update alone is no proof."""
        wire.instead = lambda method, path: (
            web.Response(status=404, text="<h3>gone</h3>", content_type="text/html")
            if method == "GET" and "/subjects/" in path
            else None
        )
        with pytest.raises(TransientError, match="does not show it"):
            await Subjects(client, AT_ONCE).update(wish(gender="male"))
        assert held(xnat) == {"gender": "male"}
        assert len(xnat.subjects("demo")) == 1

    @pytest.mark.parametrize("answer", ["", "Conflict: Duplicate subject label"])
    async def test_somebody_else_creates_the_subject_too(
        self, xnat: TestXnat, wire: Wire, client: Client, answer: str
    ) -> None:
        """Theirs is first, and is kept, whether XNAT notices it before or while it creates ours."""

        def race(method: str, path: str) -> web.Response | None:
            if method == "POST" and "/subjects" in path and not xnat.subjects("demo"):
                xnat.add_subject("demo", "S1", gender="male")
                if answer:
                    return web.Response(status=409, text=f"<h3>{answer}</h3>", content_type="text/html")
            return None

        wire.instead = race
        done = await Subjects(client, AT_ONCE).update(wish(gender="female", age="34"))
        assert (done.created, done.written, [one.name for one in done.kept]) == (False, ("age",), ["gender"])
        assert held(xnat) == {"gender": "male", "age": "34"}

    async def test_a_subject_created_by_others_is_not_reported_as_created(
        self, xnat: TestXnat, wire: Wire, client: Client
    ) -> None:
        """It had no values, and got them from here."""

        def race(method: str, path: str) -> web.Response | None:
            if method == "POST" and "/subjects" in path and not xnat.subjects("demo"):
                xnat.add_subject("demo", "S1")
            return None

        wire.instead = race
        done = await Subjects(client, AT_ONCE).update(wish(gender="female"))
        assert (done.state, done.written, held(xnat)) == ("updated", ("gender",), {"gender": "female"})

    async def test_another_subject_answers(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """If the label is another's ID, that subject would get the values."""
        xnat.add_subject("demo", "S1")
        wire.instead = lambda method, _path: web.Response(text="XNAT_S99999") if method == "PUT" else None
        with pytest.raises(RefusedError, match="another subject"):
            await Subjects(client, AT_ONCE).update(wish())

    @pytest.mark.parametrize("status", [301, 302])
    async def test_redirects_of_updates_are_not_followed(self, wire: Wire, client: Client, status: int) -> None:
        """The values would go to another host."""
        target = "http://127.0.0.1:9/elsewhere"
        wire.instead = lambda method, _path: (
            web.Response(status=status, headers={"Location": target}) if method in _WRITING else None
        )
        with pytest.raises((UnavailableError, TransientError), match="redirects") as caught:
            await Subjects(client, AT_ONCE).update(wish())
        assert "female" not in str(caught.value)

    async def test_the_server_goes_away(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """The run ends, and the next one does the rest."""
        demographics = [wish(f"S{number}", gender="male") for number in range(40)]
        told: list[SubjectUpdated | SubjectError] = []
        wire.instead = lambda _method, _path: web.Response(status=503) if len(wire.puts) > 20 else None
        with pytest.raises(UnavailableError) as caught:
            await update_all(Subjects(client, AT_ONCE), demographics, report=told.append)
        assert caught.value.exit_code == 4
        assert 10 < len(told) <= 20
        assert {one.subject for one in told} <= {one.label for one in xnat.subjects("demo")}
        first = len(wire.puts)
        wire.instead = lambda _method, _path: None
        done = await update_all(Subjects(client, AT_ONCE), demographics)
        assert {one.state for one in done} == {"created", "unchanged"}
        assert len(xnat.subjects("demo")) == 40
        assert len(wire.puts) - first == 40 - sum(one.state == "unchanged" for one in done)

    async def test_a_lost_login(self, xnat: TestXnat, client: Client) -> None:
        """It is renewed, and the call is repeated."""
        xnat.expire_logins()
        assert (await Subjects(client, AT_ONCE).update(wish())).created


class TestManyAtATime:
    """Concurrency."""

    async def test_eight_subjects_and_never_one_twice(self, xnat: TestXnat, wire: Wire, client: Client) -> None:
        """Subjects are updated side by side, but rows of one subject one after the other."""
        demographics = [wish(f"S{number}", gender="male") for number in range(50)]
        done = await update_all(Subjects(client, AT_ONCE), demographics)
        assert [one.subject for one in done] == [one.subject for one in demographics]
        assert 2 <= wire.most <= 8
        subjects = Subjects(client, AT_ONCE)
        wire.most = 0
        async with anyio.create_task_group() as tasks:
            for values in ({"gender": "male"}, {"age": "34"}, {"race": "x"}, {"age": "35"}):
                for spelling in ("T1", "t1"):
                    tasks.start_soon(subjects.update, wish(spelling, **values))
        assert wire.most == 1
        assert [one.label for one in xnat.subjects("demo") if one.label.lower() == "t1"] == ["T1"]

    async def test_one_listing_a_project(self, wire: Wire, client: Client) -> None:
        """The number of subjects does not matter; if some were created, a second listing looks for twins."""
        for most in (2, 3):
            await update_all(Subjects(client, AT_ONCE), [wish(f"S{number}", gender="male") for number in range(20)])
            assert sum("/subjects?" in path for method, path in wire.calls if method == "GET") == most


async def test_nothing_is_logged(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    """No level logs values or labels."""
    caplog.set_level(0)
    await Subjects(client, AT_ONCE).update(wish(race="planted"))
    assert "planted" not in json.dumps([record.getMessage() for record in caplog.records])
