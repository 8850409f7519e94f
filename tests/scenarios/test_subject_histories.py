"""What subjects hold, in any history of our calls and of another writer before, between and after them.

An oracle stands in the wire and knows every value of every subject before and after each call. Whatever happens: a call
changes no subject but the one that was looked up, and shown, under the label that was given; without being asked to it
replaces no value that it was shown; it makes none beside one that the listing has; and what is told as written was seen
there. Where nobody interferes the end is known to the letter.
"""

import html
import os
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import SystemRandom
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import anyio
import pytest
from aiohttp import web
from anyio.from_thread import start_blocking_portal
from builders import AT_ONCE, listening, logged_in
from histories import run_histories
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from yarl import URL

from asyncimport.demographics.fields import NULL
from asyncimport.demographics.table import Demographics
from asyncimport.errors import UnavailableError
from asyncimport.testserver import Project, Subject, TestXnat, serve
from asyncimport.xnat.subjects import SubjectError, Subjects, SubjectUpdated, update_all

# Three differ in case, and two become accession IDs.
LABELS = ("Ab", "ab", "AB", "XNAT_S00001", "XNAT_S00002")
BIRTH = ("dob", "yob", "age")
VALUES = {
    "gender": ("male", "female"),
    "race": ("x", "a & b"),
    "group": ("control", "patient"),
    "dob": ("1970-01-31", "1980-02-29"),
    "yob": ("1970", "1980"),
    "age": ("34", "35"),
}


@dataclass(frozen=True, slots=True)
class Known:
    """What the oracle knows of a subject."""

    project: str
    label: str
    shares: Mapping[str, str]
    values: Mapping[str, str]

    def label_in(self, project: str) -> str | None:
        """Return its label in a project, if it has one."""
        return self.label if project == self.project else self.shares.get(project)


State = dict[str, Known]


def state_of(xnat: TestXnat) -> State:
    """Return all known subjects by accession ID."""
    return {
        one.id: Known(
            one.project,
            one.label,
            dict(one.shares),
            {name: html.unescape(str(value)) for name, value in {**one.demographics, **one.fields}.items()},
        )
        for one in xnat.subjects()
    }


def alike(state: State, label: str) -> list[str]:
    """Return the IDs of the subjects of a project with a label, in any case. The exact label comes first."""
    found = [(known.label_in("demo"), accession) for accession, known in state.items()]
    fitting = [(one, accession) for one, accession in found if one is not None and one.lower() == label.lower()]
    return [accession for _, accession in sorted(fitting, key=lambda each: each[0] != label)]


def meant(state: State, label: str) -> list[str]:
    """Return the IDs that a label may mean: more than one if it is ambiguous."""
    found = alike(state, label)
    same = [accession for accession in found if state[accession].label_in("demo") == label]
    return same or found


def merged(theirs: Mapping[str, str], ours: Mapping[str, str], *, overwrite: bool) -> dict[str, str]:
    """Return the values that a subject should have in the end, at most one of dob, yob and age."""
    result = dict(theirs)
    for name, value in ours.items():
        rivals = [one for one in (BIRTH if name in BIRTH and value != NULL else (name,)) if one in result]
        if result.get(name) == value or (rivals and not overwrite):
            continue
        for one in rivals:
            del result[one]
        if value != NULL:
            result[name] = value
    return result


@dataclass(frozen=True, slots=True)
class Wish:
    """A call of ours."""

    label: str
    values: Mapping[str, str]
    overwrite: bool
    dry_run: bool
    only_existing: bool


Action = tuple[Any, ...]


class Somebody:
    """Another writer: a user of XNAT's pages, a script, an administrator."""

    def __init__(self, xnat: TestXnat) -> None:
        self.xnat = xnat

    def act(self, action: Action) -> None:
        """Act, if possible."""
        what, which, *rest = action
        everybody = self.xnat.subjects()
        match what:
            case "add":
                label, values = rest
                if self.xnat.subject_labelled("demo", label) is None:
                    one = self.xnat.add_subject("demo", label)
                    self.set(one, values)
            case "edit":
                self.xnat.projects["demo"].editors = ["*"] if rest[0] else ["nobody"]
            case _ if not everybody:
                pass
            case "rename":
                one = everybody[which % len(everybody)]
                if self.xnat.subject_labelled(one.project, rest[0]) is None:
                    self.xnat.rename_subject(one, rest[0])
            case "cross":
                # Each gets the ID of the other as its label, if possible.
                for one, other in zip(everybody, reversed(everybody), strict=True):
                    if one.project == "demo" and self.xnat.subject_labelled("demo", other.id) is None:
                        self.xnat.rename_subject(one, other.id)
            case "remove":
                one = everybody[which % len(everybody)]
                if not one.shares:
                    self.xnat.remove_subject(one)
            case "set":
                self.set(everybody[which % len(everybody)], rest[0])
            case "clear":
                one = everybody[which % len(everybody)]
                one.demographics.pop(rest[0], None)
                one.fields.pop(rest[0], None)
            case "lock":
                everybody[which % len(everybody)].locked = rest[0]

    def set(self, one: Subject, values: Mapping[str, str]) -> None:
        """Give a subject values."""
        for name, value in values.items():
            if name in BIRTH:
                for other in BIRTH:
                    one.demographics.pop(other, None)
            place = one.fields if name == "group" else one.demographics
            place[name] = value


@dataclass
class Wire:
    """The requests of one of our calls, with the events before each request."""

    xnat: TestXnat
    wish: Wish
    somebody: Somebody
    actions: Sequence[tuple[int, Action]] = ()
    troubles: Mapping[int, str] = field(default_factory=dict)
    alone: bool = True
    """Whether no other call of ours runs, so that this one made all changes."""
    url: str = ""
    requests: int = 0
    writes: int = 0
    made: set[str] = field(default_factory=set)
    taken: set[str] = field(default_factory=set)
    listed: State = field(default_factory=dict)
    shown: State = field(default_factory=dict)
    history: list[str] = field(default_factory=list)

    async def answer(self, request: web.BaseRequest, http: aiohttp.ClientSession, site: str) -> web.StreamResponse:
        """Forward a request, and check its effect."""
        body = await request.read()
        if "/subjects" not in request.path:
            return await self._passed(request, body, http, site)
        for place, action in self.actions:
            if place == self.requests:
                self.history.append(f"  {action}")
                self.somebody.act(action)
        trouble = self.troubles.get(self.requests)
        self.requests += 1
        self.history.append(f"  {request.method} {request.raw_path} {trouble or ''}")
        if trouble == "unseen" and request.method == "GET" and not request.path.endswith("/subjects"):
            return _page(404, "Unable to find the specified subject.")
        if trouble == "failed":
            return _page(500, "failed")
        if trouble == "not passed on":
            return web.Response(status=504)
        before = state_of(self.xnat)
        answer = await self._passed(request, body, http, site)
        after = state_of(self.xnat)
        if self.alone and request.method == "GET":
            assert before == after
            self._note(request.path, answer, after)
        elif self.alone:
            self.writes += 1
            self._judge(request.method, request.path, before, after)
        return web.Response(status=504) if trouble == "lost on the way back" else answer

    async def _passed(
        self, request: web.BaseRequest, body: bytes, http: aiohttp.ClientSession, site: str
    ) -> web.Response:
        headers = {name: value for name, value in request.headers.items() if name not in {"Host", "Content-Length"}}
        target = URL(f"{site}{request.raw_path}", encoded=True)
        async with http.request(request.method, target, data=body, headers=headers, allow_redirects=False) as response:
            copy = web.Response(status=response.status, body=await response.read())
            copy.content_type = response.content_type
            copy.headers.extend(("Set-Cookie", value) for value in response.headers.getall("Set-Cookie", []))
            return copy

    def _note(self, path: str, answer: web.Response, state: State) -> None:
        """Record the values that were shown."""
        if answer.status != 200:
            return
        if path.endswith("/subjects"):
            self.listed = state
        else:
            text = answer.text or ""
            found = re.search(r'"ID": ?"([^"]+)"', text)
            assert found is not None
            self.shown[found[1]] = state[found[1]]

    def _judge(self, method: str, path: str, before: State, after: State) -> None:
        """Compare the changes of a call with those that it should make."""
        wish = self.wish
        assert not wish.dry_run, "a comparison writes"
        changed = {one for one in {*before, *after} if before.get(one) != after.get(one)}
        if method == "POST":
            assert changed <= set(after) - set(before), "a call that makes one has changed another"
            assert len(changed) <= 1
            for one in changed:
                assert not wish.only_existing
                assert not alike(self.listed, wish.label), "a second one beside one that the listing has"
                assert (after[one].project, after[one].label) == ("demo", wish.label)
                assert after[one].values == merged({}, wish.values, overwrite=False)
            self.made |= changed
            return
        (accession,) = re.fullmatch(r"/data/subjects/([^/]+)", path).groups()  # type: ignore[union-attr]
        assert changed <= {accession}, "another subject than the one of the address"
        shown = self.shown.get(accession)
        assert shown is not None, "a subject that was not looked at"
        assert shown.project == "demo", "a subject of another project"
        assert shown.label.lower() == wish.label.lower(), "a subject of another label"
        for name, value in before[accession].values.items() if changed else ():
            if after[accession].values.get(name) != value:
                assert name in wish.values or (name in BIRTH and set(BIRTH) & set(wish.values)), "a field of nobody"
                # XNAT gives no means to see a change between the last read and the call.
                if shown.values.get(name) == value:
                    assert wish.overwrite, f"{name} was replaced unasked"
                    self.taken |= {accession} if wish.values.get(name) != NULL else set()

    def told(self, outcome: SubjectUpdated | SubjectError) -> None:
        """Compare the final report with the values that were shown."""
        if isinstance(outcome, SubjectError):
            assert outcome.reason
            return
        wish = self.wish
        kept = {one.name for one in outcome.kept}
        assert {*outcome.written, *outcome.unchanged} | kept == set(wish.values)
        assert not {*outcome.written, *outcome.unchanged} & kept
        if not outcome.accession:
            assert wish.dry_run or not set(wish.values.values()) - {NULL}
            return
        shown = self.shown[outcome.accession]
        assert outcome.label.lower() == (shown.label if shown.project != "demo" else wish.label).lower()
        for name in () if wish.dry_run else outcome.written:
            assert shown.values.get(name, NULL) == wish.values[name], f"{name} was not there"
        # After a call that was cut it is unknown who has made the subject.
        may_be_cut = {"not passed on", "lost on the way back"} & set(self.troubles.values())
        assert wish.dry_run or not outcome.created or outcome.accession in self.made or may_be_cut
        if outcome.accession in self.taken:
            assert outcome.replaced, "what somebody had entered was replaced, and nobody is told"


def _page(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"<html><h3>{text}</h3></html>", content_type="text/html")


@asynccontextmanager
async def wired(wire: Wire, site: str) -> AsyncIterator[Wire]:
    """Put the wire between the client and the site."""
    broken: list[AssertionError] = []

    async def relay(request: web.BaseRequest) -> web.StreamResponse:
        try:
            return await wire.answer(request, http, site)
        except AssertionError as error:
            broken.append(error)
            raise

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http, listening(relay) as address:
        wire.url = address
        yield wire
    if broken:
        raise broken[0]


texts = st.sampled_from(LABELS)
one_birth = st.sampled_from([(), *((name,) for name in BIRTH)])


@st.composite
def values_of(draw: st.DrawFn, *, null: bool = False) -> dict[str, str]:
    """Draw values of some fields, at most one of dob, yob and age."""
    names = [*draw(st.sets(st.sampled_from(["gender", "race", "group"]))), *draw(one_birth)]
    found = {name: draw(st.sampled_from(VALUES[name])) for name in sorted(names)}
    if null and "race" in found and draw(st.booleans()):
        found["race"] = NULL
    return found


number = st.integers(0, 3)
an_action = st.one_of(
    st.tuples(st.just("add"), number, texts, values_of()),
    st.tuples(st.just("rename"), number, texts),
    st.tuples(st.just("rename"), number, texts),
    st.tuples(st.just("cross"), number),
    st.tuples(st.just("remove"), number),
    st.tuples(st.just("set"), number, values_of()),
    st.tuples(st.just("set"), number, values_of()),
    st.tuples(st.just("clear"), number, st.sampled_from(sorted(VALUES))),
    st.tuples(st.just("lock"), number, st.booleans()),
    st.tuples(st.just("edit"), number, st.sampled_from([True, True, False])),
)
a_wish = st.builds(
    Wish,
    label=texts,
    values=values_of(null=True),
    overwrite=st.booleans(),
    dry_run=st.sampled_from([False, False, False, True]),
    only_existing=st.sampled_from([False, False, False, True]),
)
# Most calls are a listing, a read, a change and another read.
places = st.sampled_from([0, 1, 1, 1, 2, 2, 3, 3, 4, 5, 6, 7])
trouble = st.sampled_from(["unseen", "unseen", "failed", "not passed on", "not passed on", "lost on the way back"])
interferences: st.SearchStrategy[Any] = st.one_of(
    st.tuples(st.lists(st.tuples(places, an_action), max_size=3), st.dictionaries(places, trouble, max_size=2)),
    # What was listed is out of sight; and a call is lost before somebody comes in.
    st.tuples(st.just([]), st.just({1: "unseen"})),
    st.tuples(st.lists(st.tuples(st.just(3), an_action), min_size=1, max_size=2), st.just({2: "not passed on"})),
)


class Histories(RuleBasedStateMachine):
    """All events of subjects, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        place = Path(self._stack.enter_context(TemporaryDirectory()))
        self.xnat = TestXnat(place / "xnat")
        self.xnat.projects["demo"].readers = ["*"]
        self.xnat.add_project(Project("home"))
        self.somebody = Somebody(self.xnat)
        self._portal = self._stack.enter_context(start_blocking_portal())
        self._site = self._stack.enter_context(self._portal.wrap_async_context_manager(serve(self.xnat)))
        self._shared = 0
        self.history: list[str] = []

    def teardown(self) -> None:
        """End the server."""
        self._stack.close()

    @initialize(
        there=st.lists(st.tuples(st.just("add"), number, texts, values_of()), max_size=3), crossed=st.booleans()
    )
    def somebody_was_there(self, there: list[Action], crossed: bool) -> None:
        """Let the other writer act before us."""
        for action in [*there, *([("cross", 0)] if crossed else [])]:
            self.somebody.act(action)
        self.history.append(f"{state_of(self.xnat)}")

    @rule(action=an_action)
    def somebody_acts(self, action: Action) -> None:
        """Let the other writer act while no call of ours runs."""
        self.history.append(f"{action}")
        self.somebody.act(action)

    @rule(label=texts, values=values_of())
    def one_is_shared(self, label: str, values: dict[str, str]) -> None:
        """Share a subject of another project with ours."""
        if self._shared < 2 and self.xnat.subject_labelled("demo", label) is None:
            self._shared += 1
            one = self.xnat.add_subject("home", f"H{self._shared}")
            self.somebody.set(one, values)
            self.xnat.share(one, "demo", label)
            self.history.append(f"{label} is shared")

    @rule(wish=a_wish)
    def ours_alone(self, wish: Wish) -> None:
        """Without interference the final values of the subject, and everything else, are known exactly."""
        before = state_of(self.xnat)
        outcome, wire = self._run(wish)
        after = state_of(self.xnat)
        expected = self._expected(wish, before)
        self._note(f"expected {expected}, after {after}", outcome)
        if expected is None:
            assert isinstance(outcome, SubjectError)
            assert outcome.refused
            assert after == before
            return
        assert isinstance(outcome, SubjectUpdated)
        assert {**before, **expected} == {one: known for one, known in after.items() if one in {**before, **expected}}
        made = set(after) - set(before)
        assert len(made) == (outcome.created and not wish.dry_run)
        for one in made:
            assert after[one] == Known("demo", wish.label, {}, merged({}, wish.values, overwrite=False))
        # A second call has nothing to do.
        if not wish.dry_run:
            again, wire = self._run(wish)
            assert isinstance(again, SubjectUpdated)
            assert (again.written, wire.writes, state_of(self.xnat)) == ((), 0, after)

    @rule(wish=a_wish, interference=interferences)
    def ours_among_others(self, wish: Wish, interference: tuple[list[tuple[int, Action]], dict[int, str]]) -> None:
        """Let the other writer act between our requests, and some requests fail."""
        actions, troubles = interference
        before = state_of(self.xnat)
        outcome, wire = self._run(wish, actions, troubles)
        after = state_of(self.xnat)
        if isinstance(outcome, SubjectUpdated) and outcome.created and not wish.dry_run:
            others = [one for one in alike(after, wish.label) if one != outcome.accession]
            assert len(others) <= len(outcome.alike), "two of one label, and nobody is told"
        if not actions:
            # Trouble of its own accord takes no value away, and makes no two.
            assert len(after) <= len(before) + 1
            for one, known in before.items():
                overwritten = wish.overwrite and one in wire.shown
                assert overwritten or known.values.items() <= after[one].values.items()

    @rule(first=a_wish, second=a_wish)
    def two_of_ours(self, first: Wish, second: Wish) -> None:
        """Run two calls at once, perhaps on the same subject."""
        labels = [known.label_in("demo") for known in state_of(self.xnat).values()]
        wires = [Wire(self.xnat, wish, self.somebody, alone=False) for wish in (first, second)]

        async def both() -> list[SubjectUpdated | SubjectError | None]:
            found: list[SubjectUpdated | SubjectError | None] = [None, None]

            async def one(place: int) -> None:
                found[place] = await self._describe(wires[place])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(one, 0)
                tasks.start_soon(one, 1)
            return found

        outcomes = self._portal.call(both)
        self._note(f"both {first} {second}", outcomes)
        after = [known.label_in("demo") for known in state_of(self.xnat).values()]
        if len(set(labels)) == len(labels):
            assert len(set(after)) == len(after), "two of one label"
        created = [one for one in outcomes if isinstance(one, SubjectUpdated) and one.created and one.accession]
        if len(created) == 2 and created[0].label.lower() == created[1].label.lower():
            assert any(one.alike for one in created), "two of one label but for case, and nobody is told"

    def _run(
        self, wish: Wish, actions: Sequence[tuple[int, Action]] = (), troubles: Mapping[int, str] | None = None
    ) -> tuple[SubjectUpdated | SubjectError | None, Wire]:
        wire = Wire(self.xnat, wish, self.somebody, actions, troubles or {})
        outcome = self._portal.call(self._describe, wire)
        self._note(f"{wish}", outcome, *wire.history)
        return outcome, wire

    async def _describe(self, wire: Wire) -> SubjectUpdated | SubjectError | None:
        """Make the call and return its report; None if XNAT has gone away."""
        wish = wire.wish
        async with wired(wire, self._site), logged_in(wire.url) as client:
            try:
                (outcome,) = await update_all(
                    Subjects(
                        client,
                        AT_ONCE,
                        overwrite=wish.overwrite,
                        event_reason="test",
                        dry_run=wish.dry_run,
                        only_existing=wish.only_existing,
                    ),
                    [Demographics(wish.label, wish.values, "demo")],
                )
            except UnavailableError:
                assert wire.troubles
                return None
        if wire.alone:
            wire.told(outcome)
        return outcome

    def _expected(self, wish: Wish, state: State) -> State | None:
        """Return the expected result for existing subjects; None if it is refused."""
        found = meant(state, wish.label)
        if len(found) > 1:
            return None
        may_edit = list(self.xnat.projects["demo"].editors) == ["*"]
        if not found:
            taken = wish.label in state and state[wish.label].label_in("demo") != wish.label
            makes = bool(wish.values) and set(wish.values.values()) != {NULL}
            if taken or (wish.values and (wish.only_existing or (makes and not may_edit and not wish.dry_run))):
                return None
            return {}
        (accession,) = found
        known = state[accession]
        values = merged(known.values, wish.values, overwrite=wish.overwrite)
        if values == known.values:
            return {}
        if known.project != "demo":
            return None
        if wish.dry_run:
            return {}
        is_locked = any(one.locked for one in self.xnat.subjects() if one.id == accession)
        if is_locked or not may_edit:
            return None
        return {accession: Known(known.project, known.label, known.shares, values)}

    def _note(self, *lines: object) -> None:
        self.history += map(str, lines)
        if os.environ.get("ASYNCIMPORT_HISTORIES_SEED"):
            sys.stdout.write("".join(f"{line}\n" for line in lines))


@pytest.mark.thorough
def test_some_histories() -> None:
    """A few histories, the same each time."""
    run_histories(Histories, histories=40, steps=12, number=1)


@pytest.mark.endurance
@pytest.mark.timeout(0)
def test_many_histories() -> None:
    """As many histories as there is time for."""
    run_histories(
        Histories,
        histories=int(os.environ.get("ASYNCIMPORT_HISTORIES", "1000")),
        steps=15,
        number=SystemRandom().randrange(1 << 32),
    )
