"""Subjects and their demographics, including what XNAT ignores without a message."""

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import aiohttp
import anyio
import pytest
from raw_client import RawClient, Reply, dicom, raw_client

from asyncimport.testserver import (
    PROFILES,
    Fault,
    Gateway,
    Project,
    Reset,
    Subject,
    TestXnat,
    Timing,
    Unseen,
    add_creator,
    add_reader,
    add_session,
)

pytestmark = pytest.mark.anyio
SUBJECTS = "/data/projects/demo/subjects"
S = f"{SUBJECTS}/S"
PATH = "xnat:subjectData/demographics[@xsi:type=xnat:demographicData]"
DEFAULT_500 = "The server encountered an unexpected condition which prevented it from fulfilling the request"
XML = {"Content-Type": "text/xml"}


def demo(web: RawClient, label: str = "S") -> Subject:
    """Return a subject of the project demo."""
    found = web.xnat.subject("demo", label)
    assert found is not None
    return found


def document(*elements: str, **attributes: str) -> bytes:
    """Write a subject as XML; `elements` are its demographics."""
    values = "".join(f' {name}="{value}"' for name, value in attributes.items())
    return (
        f'<?xml version="1.0"?><xnat:Subject{values} xmlns:xnat="http://nrg.wustl.edu/xnat" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">'
        f'<xnat:demographics xsi:type="xnat:demographicData">{"".join(elements)}</xnat:demographics></xnat:Subject>'
    ).encode()


def element(name: str, text: object) -> str:
    """Write an element of the demographics."""
    return f"<xnat:{name}>{text}</xnat:{name}>"


async def put_xml(web: RawClient, path: str, body: bytes, **params: str) -> Reply:
    """PUT a document."""
    return await web.ask("PUT", path, body, XML, **params)


async def test_archive_16_a_subject_is_made_and_changed() -> None:
    """201 and then 200, each with the accession id; by label or id, within its project or not."""
    async with raw_client() as web:
        made = await web.put(S, gender="female", yob="1970")
        assert (made.status, made.type, made.text) == (201, "text/plain", "XNAT_S00001")
        for path in (
            S,
            f"{SUBJECTS}/XNAT_S00001",
            "/data/subjects/XNAT_S00001",
            "/data/archive/projects/demo/subjects/S",
        ):
            changed = await web.put(path, handedness="left")
            assert (changed.status, changed.text) == (200, "XNAT_S00001")
        assert demo(web).demographics == {"gender": "female", "yob": 1970, "handedness": "left"}
        assert (await web.put(f"{SUBJECTS}/T")).text == "XNAT_S00002"
        assert web.xnat.count["subject"] == 6


async def test_archive_16_a_label_on_one_that_is_there_drops_all_else() -> None:
    """200 without a body: renamed if it differs, 409 if it is taken."""
    async with raw_client() as web:
        await web.put(S)
        await web.put(f"{SUBJECTS}/T")
        same = await web.put(S, label="S", gender="male")
        assert (same.status, same.text) == (200, "")
        assert demo(web).demographics == {}
        taken = await web.put(S, label="T")
        assert (taken.status, taken.message) == (409, "Specified label is already in use.")
        assert (await web.put(S, label="a.b")).message == DEFAULT_500
        renamed = await web.put(S, label="U", gender="male")
        assert (renamed.status, renamed.text) == (200, "")
        assert (demo(web, "U").id, demo(web, "U").demographics) == ("XNAT_S00001", {})
        assert (await web.get(S, format="json")).status == 404
        # On a new one, a label is one value among others.
        assert (await web.put(f"{SUBJECTS}/new", label="V", gender="male")).status == 201
        assert demo(web, "V").demographics == {"gender": "male"}


async def test_what_cannot_be_changed() -> None:
    """Project and ID; a project that the user cannot see counts as not named."""
    async with raw_client() as web:
        web.xnat.add_project(Project("closed", editors=["boss"]))
        web.xnat.add_project(Project("other"))
        await web.put(S)
        project = await web.put(S, project="other")
        assert (project.status, project.message) == (409, "Project must be modified through separate URI.")
        identity = await web.put(S, ID="XNAT_S00009")
        assert (identity.status, identity.message) == (400, "ID cannot be modified")
        assert (await web.put(S, ID="XNAT_S00001")).status == 200
        for path in ("/data/projects/closed/subjects/S", "/data/projects/nope/subjects/S", "/data/subjects/XNAT_S9"):
            answer = await web.put(path)
            assert (answer.status, answer.message) == (
                422,
                "Submitted subject record must include the project attribute.",
            )
        elsewhere = await web.put(f"{SUBJECTS}/new", project="other")
        assert (elsewhere.status, elsewhere.message) == (409, "Project must be modified through separate URI.")
        by_id = await web.put("/data/subjects/own_id", project="demo")
        assert (by_id.status, by_id.text) == (201, "own_id")
        bad = await web.put("/data/subjects/own.id", project="demo")
        assert (bad.status, bad.message) == (417, "Invalid character in subject label.")


@pytest.mark.parametrize(
    ("params", "text"),
    [
        ({"gender": "xyz"}, f"{PATH}/gender : 'xyz' Must Match Pre-Defined Values...(male,female,other,unknown,M,F)"),
        ({"handedness": "both"}, "Must Match Pre-Defined Values...(left,right,ambidextrous,unknown)"),
        ({"dob": "notadate"}, "Must Be A Valid Date"),
        ({"yob": "19x0"}, "Must Be A Valid Integer"),
        ({"education": "31"}, "Must Be Between 0 And 30"),
        ({"weight": "heavy"}, "Must Be A Valid Float"),
        ({f"{PATH}/employment": "4"}, "Must Be Between 0 And 3"),
    ],
)
async def test_archive_17_values_that_are_refused(params: dict[str, str], text: str) -> None:
    """400 with a text for each; nothing of the request is stored."""
    async with raw_client() as web:
        for _ in range(2):
            answer = await web.put(S, race="x", **params)
            assert answer.status == 400
            assert text in answer.text
            assert not web.xnat.subjects()
        await web.put(S)
        assert (await web.put(S, race="x", **params)).status == 400
        assert demo(web).demographics == {}


@pytest.mark.parametrize(
    ("params", "stored"),
    [
        ({"gender": "FEMALE"}, {"gender": "FEMALE"}),
        ({"gender": "m"}, {"gender": "m"}),
        ({"dob": "1970-01-31"}, {"dob": "1970-01-31"}),
        ({"dob": "01/31/1970"}, {"dob": "1970-01-31"}),
        ({"dob": "01.31.1970"}, {"dob": "1970-01-31"}),
        ({"dob": "19700131"}, {"dob": "1970-01-31"}),
        ({"dob": "31/01/1970"}, {"dob": "1972-07-01"}),
        ({"yob": "1970"}, {"yob": 1970}),
        ({"age": "33"}, {"age": 33}),
        ({"weight": "70.5", "height": "180"}, {"weight": 70.5, "height": 180.0}),
        ({"education": "30", "educationDesc": "long"}, {"education": 30, "educationDesc": "long"}),
        ({"nonsense": "1", "employment": "1", "ses": "4"}, {"ses": 4}),
        ({"race": "a&b"}, {"race": "a&amp;b"}),
        ({f"{PATH}/gender": "male", "req_format": "qs", "xsiType": "xnat:subjectData"}, {"gender": "male"}),
        ({f"{PATH}/employment": "3"}, {"employment": 3}),
        ({"dob": "1970-01-31", "yob": "1971"}, {"yob": 1971}),
        ({"gender": ""}, {}),
    ],
)
async def test_archive_17_values_that_are_taken(params: dict[str, str], stored: dict[str, object]) -> None:
    """In any letter case; dates in four formats, of which one is misread; numbers are numbers."""
    async with raw_client() as web:
        assert (await web.put(S, **params)).status == 201
        assert demo(web).demographics == stored
        assert [type(value) for value in demo(web).demographics.values()] == [type(value) for value in stored.values()]


async def test_archive_17_null_clears() -> None:
    """The literal NULL; of dob, yob and age the last one stays."""
    async with raw_client() as web:
        await web.put(S, gender="male", dob="1970-01-31", group="control", pi_lastname="Who")
        await web.put(S, gender="NULL", group="NULL")
        assert (demo(web).demographics, demo(web).fields) == ({"dob": "1970-01-31"}, {"pi_lastname": "Who"})
        await web.put(S, age="44")
        assert demo(web).demographics == {"age": 44}


async def test_archive_18_an_unknown_path_loses_everything() -> None:
    """A new subject is created (201) without any values; an existing one gets those before the path."""
    async with raw_client() as web:
        params = {"gender": "male", f"{PATH}/nonsense": "1", "ses": "4"}
        made = await web.put(S, **params)
        assert (made.status, made.text) == (201, "XNAT_S00001")
        assert demo(web).demographics == {}
        changed = await web.put(S, **params)
        assert (changed.status, changed.text) == (200, "XNAT_S00001")
        assert demo(web).demographics == {"gender": "male"}
        # Paths of something else are none of a subject's.
        await web.put(S, **{"xnat:mrSessionData/date": "x", "ses": "4"})
        assert demo(web).demographics == {"gender": "male", "ses": 4}


async def test_paths_of_other_fields_and_custom_variables() -> None:
    """As clients send them; brackets have to be encoded."""
    async with raw_client() as web:
        params = {
            "xnat:subjectData/label": "S",
            "xnat:subjectData/group": "control",
            "xnat:subjectData/investigator/lastname": "Who",
            "xnat:subjectData/fields/field[name=visits]/field": "3",
        }
        assert (await web.put(S, **params)).status == 201
        assert (demo(web).fields, demo(web).custom) == ({"group": "control", "pi_lastname": "Who"}, {"visits": "3"})
        raw = await web.put(f"{S}?{PATH}/gender=male")
        assert raw.status == 400
        assert "Invalid character found in the request target" in raw.text
        assert (await web.put(f"{S}?{quote(PATH, safe='')}%2Fgender=male")).status == 200
        assert demo(web).demographics == {"gender": "male"}
        web.xnat.strict_urls = False
        assert (await web.put(f"{S}?{PATH.replace('=', '%3D')}/gender=other")).status == 200
        assert demo(web).demographics == {"gender": "other"}


async def test_archive_18_labels() -> None:
    """Invalid characters fail at the end, without a text; another letter case is another subject."""
    async with raw_client() as web:
        for label in ("a.b", "a%20b", "%C3%A9", "a+b"):
            answer = await web.put(f"{SUBJECTS}/{label}")
            assert (answer.status, answer.message) == (500, DEFAULT_500)
        await web.put(S)
        assert (await web.put(f"{SUBJECTS}/s")).text == "XNAT_S00002"
        assert (await web.get(S, format="json")).json["items"][0]["data_fields"]["ID"] == "XNAT_S00001"
        clash = await web.put(f"{SUBJECTS}/new", label="S")
        assert (clash.status, clash.message) == (409, "Conflict: Duplicate subject label")


async def test_archive_18_two_that_make_one_subject_at_once() -> None:
    """The second finds that the first has saved it."""
    async with raw_client(TestXnat(timing=Timing(saving_seconds=0.05))) as web:
        answers: list[Reply] = []

        async def put() -> None:
            answers.append(await web.put(S, gender="male"))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put)
            tasks.start_soon(put)
        assert sorted(answer.status for answer in answers) == [201, 409]
        assert len(web.xnat.subjects()) == 1


async def test_archive_18_archiving_cleans_labels_and_ignores_letter_case() -> None:
    """`a.b` becomes `a_b`; SUB1 goes to sub1, which was made before with its demographics."""
    async with raw_client() as web:
        await web.put(f"{SUBJECTS}/sub1", gender="male")
        await web.archive_session(dicom(), SUBJECT_ID="SUB1")
        assert web.xnat.archived[0].subject is demo(web, "sub1")
        await web.archive_session(dicom(2, StudyInstanceUID="9"), SUBJECT_ID="a.b", EXPT_LABEL="F")
        assert [subject.label for subject in web.xnat.subjects()] == ["sub1", "a_b"]
        assert (await web.put(f"{SUBJECTS}/a_b", gender="female")).text == "XNAT_S00002"
        assert (await web.put(f"{SUBJECTS}/SUB1")).text == "XNAT_S00003"
        # What cleaning leaves fails when it is saved.
        failed = await web.archive(await web.build_session(dicom(4), SUBJECT_ID="\u00e9", EXPT_LABEL="H"))
        assert failed.status == 500
        assert failed.message.endswith("Identifiers cannot use special characters.")
        # Both labels are there now: the one that is spelt so.
        await web.archive_session(dicom(3, StudyInstanceUID="8"), SUBJECT_ID="SUB1", EXPT_LABEL="G")
        assert web.xnat.archived[2].subject.id == "XNAT_S00003"


async def test_archive_19_rights() -> None:
    """Users who may create may not change, and readers may do neither; the text names the right."""
    xnat = TestXnat()
    add_creator(xnat, "maker")
    add_reader(xnat, "reader")
    async with raw_client(xnat, user="maker") as web:
        assert (await web.put(S, gender="male")).status == 201
        answer = await web.put(S, gender="female")
        assert answer.status == 403
        assert answer.message == "Specified user account has insufficient edit privileges for subjects in this project."
        assert (await web.put(S, label="T")).status == 403
        assert demo(web).demographics == {"gender": "male"}
    async with raw_client(xnat, user="reader") as web:
        answer = await web.put(f"{SUBJECTS}/T")
        assert answer.status == 403
        assert (
            answer.message == "Specified user account has insufficient create privileges for subjects in this project."
        )
        assert (await web.post(SUBJECTS, label="T")).status == 403
        assert (await web.get(S, format="json")).status == 200
    async with raw_client(xnat) as web:
        assert (await web.put(S, gender="female")).status == 200


async def test_archive_20_documents_are_merged() -> None:
    """Fields that are not mentioned stay, unless deletion is allowed."""
    async with raw_client() as web:
        body = document(element("gender", "male"), element("yob", 1970), label="S", project="demo", group="control")
        made = await put_xml(web, S, body)
        assert (made.status, made.text) == (201, "XNAT_S00001")
        await put_xml(web, S, document(element("ses", 4)))
        assert demo(web).demographics == {"gender": "male", "yob": 1970, "ses": 4}
        assert demo(web).fields == {"group": "control"}
        await put_xml(web, S, document(element("race", "x")), allowDataDeletion="true", ses="5")
        assert (demo(web).demographics, demo(web).fields) == ({"race": "x", "ses": 5}, {})
        await web.put(S, gender="male", allowDataDeletion="true")
        assert demo(web).demographics == {"race": "x", "ses": 5, "gender": "male"}
        # What XNAT gives can be sent back.
        await web.put(S, pi_lastname="Who", src="x", **{"xnat:subjectData/fields/field[name=visits]/field": "3"})
        shown = await web.get(S, format="xml")
        await web.put(S, pi_lastname="NULL", **{"xnat:subjectData/fields/field[name=visits]/field": "NULL"})
        assert demo(web).custom == {}
        assert (await put_xml(web, S, shown.text.encode(), allowDataDeletion="true")).text == "XNAT_S00001"
        assert demo(web).demographics == {"race": "x", "ses": 5, "gender": "male"}
        assert (demo(web).fields, demo(web).custom) == ({"src": "x", "pi_lastname": "Who"}, {"visits": "3"})
        children = (await web.get(S, format="json")).json["items"][0]["children"]
        assert children[1]["items"][0]["data_fields"] == {"name": "visits", "field": "3"}
        taken = document(label="T")
        await web.put(f"{SUBJECTS}/T")
        assert (await put_xml(web, S, taken)).message == "Specified label is already in use."


@pytest.mark.parametrize(
    ("body", "status", "text"),
    [
        (b"<a>", 422, "no element found"),
        (b"<a/>", 422, "Only xnat:Subject documents can be PUT to this address."),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', 422, "DTDForbidden"),
        (document(element("gender", "x")), 400, "Must Match"),
        (document(ID="XNAT_S7"), 400, "ID cannot be modified"),
    ],
)
async def test_archive_20_documents_that_are_refused(body: bytes, status: int, text: str) -> None:
    """With the texts of the parser, or of the check."""
    async with raw_client() as web:
        await web.put(S)
        answer = await put_xml(web, S, body)
        assert answer.status == status
        assert text in answer.text


async def test_archive_21_changes_need_a_reason() -> None:
    """500 without a text; also for new subjects, unless archiving creates them."""
    async with raw_client(TestXnat(needs_reason=True)) as web:
        new = await web.put(S, gender="male")
        assert (new.status, new.message) == (500, DEFAULT_500)
        await web.archive_session(dicom())
        changed = await web.put(S, gender="male")
        assert (changed.status, changed.message) == (500, DEFAULT_500)
        assert demo(web).demographics == {}
        assert (await web.put(S, gender="male", event_reason="upload")).text == "XNAT_S00001"
        assert (await web.put(f"{SUBJECTS}/T", event_reason="upload")).status == 201


async def test_subjects_are_made_in_a_list() -> None:
    """200, and the address in the body and in Location."""
    async with raw_client() as web:
        made = await web.post(SUBJECTS, label="S", gender="male")
        uri = f"{web.url}{SUBJECTS}/XNAT_S00001"
        assert (made.status, made.text, made.headers["Location"]) == (200, uri, uri)
        assert demo(web).demographics == {"gender": "male"}
        again = await web.post(SUBJECTS, label="S")
        assert (again.status, again.message) == (409, "Subject already exists.")
        posted = await web.ask("POST", SUBJECTS, document(element("gender", "M"), label="T"), XML)
        assert (posted.status, demo(web, "T").demographics) == (200, {"gender": "M"})
        assert (await web.post("/data/projects/nope/subjects", label="S")).status == 404


async def test_lists_of_subjects() -> None:
    """Strings; default columns or those asked for; filters; JSON and CSV."""
    async with raw_client() as web:
        web.xnat.add_project(Project("other"))
        web.xnat.add_project(Project("closed", editors=["boss"]))
        await web.put(S, gender="male", yob="1970")
        await web.put("/data/projects/other/subjects/T")
        web.xnat.add_subject("closed", "U")
        answer = await web.get(SUBJECTS)
        assert answer.json["ResultSet"]["totalRecords"] == "1"
        (row,) = answer.rows
        assert list(row) == ["ID", "project", "label", "insert_date", "insert_user", "URI"]
        assert (row["ID"], row["label"], row["insert_user"]) == ("XNAT_S00001", "S", "demo")
        assert row["URI"] == "/data/subjects/XNAT_S00001"
        assert [row["label"] for row in (await web.get("/data/subjects")).rows] == ["S", "T"]
        assert [row["label"] for row in (await web.get("/data/subjects", project="other")).rows] == ["T"]
        (row,) = (await web.get(SUBJECTS, columns=f"label,{PATH}/gender,yob,nonsense")).rows
        assert row == {
            "ID": "XNAT_S00001",
            "label": "S",
            "gender": "male",
            "yob": "1970",
            "URI": "/data/subjects/XNAT_S00001",
        }
        csv = await web.get(SUBJECTS, format="csv", columns="label,ID")
        assert csv.text.splitlines() == ["ID,label,URI", "XNAT_S00001,S,/data/subjects/XNAT_S00001"]
        assert (await web.get("/data/projects/nope/subjects")).message == "Unable to identify project nope"
        assert (await web.get("/data/projects/closed/subjects")).status == 403


async def test_archive_23_a_subject() -> None:
    """HTML, XML, or items in JSON, with real numbers; 404 where it cannot be read."""
    async with raw_client() as web:
        web.xnat.add_project(Project("closed", editors=["boss"]))
        await web.put(S, gender="male", yob="1970", weight="70", group="control")
        closed = web.xnat.add_subject("closed", "U")
        assert (await web.get(S)).type == "text/html"
        for path in (S, f"{SUBJECTS}/XNAT_S00001", "/data/subjects/XNAT_S00001"):
            (item,) = (await web.get(path, format="json")).json["items"]
            assert item["meta"]["xsi:type"] == "xnat:subjectData"
            fields = {"ID": "XNAT_S00001", "project": "demo", "label": "S", "group": "control"}
            assert item["data_fields"] == fields
            (child,) = item["children"]
            assert child["field"] == "demographics"
            assert child["items"][0]["data_fields"] == {"gender": "male", "yob": 1970, "weight": 70.0}
        for path in (
            f"/data/subjects/{closed.id}",
            "/data/projects/closed/subjects/U",
            f"{SUBJECTS}/s",
            "/data/subjects/S",
        ):
            answer = await web.get(path, format="json")
            assert (answer.status, answer.message) == (404, "Unable to find the specified subject.")


async def test_faults_of_subjects() -> None:
    """A kind of their own; the effect may have taken place, and a project may be unknown for a while."""
    async with raw_client() as web:
        web.http._retry_connection = False
        web.xnat.faults.add(Fault("subject", Reset(effect=True)))
        with pytest.raises(aiohttp.ClientError):
            await web.put(S, gender="male")
        assert demo(web).demographics == {"gender": "male"}
        web.xnat.faults.add(Fault("subject", Gateway()))
        assert (await web.put(S, gender="female")).status == 504
        assert demo(web).demographics == {"gender": "female"}
        web.xnat.faults.add(Fault("subject", Unseen("demo", "edit")))
        assert (await web.put(S, gender="male")).status == 403
        web.xnat.faults.add(Fault("subject", Unseen("demo")))
        assert (await web.put(S, gender="male")).status == 422
        assert (await web.put(S, gender="male")).status == 200


async def test_a_document_that_breaks_off_changes_nothing() -> None:
    """There is no reply."""
    async with raw_client() as web:
        web.http._retry_connection = False
        await web.put(S)
        body = document(element("gender", "male"))

        async def half() -> AsyncIterator[bytes]:
            yield body[:50]
            while web.xnat.count["subject"] < 2:
                await anyio.lowlevel.checkpoint()
            raise ConnectionResetError

        with pytest.raises(aiohttp.ClientError):
            await web.ask("PUT", S, half(), XML | {"Content-Length": str(len(body))})
        assert (await web.put(S)).status == 200
        assert demo(web).demographics == {}


@pytest.mark.parametrize("version", ["1.5.4", "1.6.1"])
async def test_old_versions_have_the_same(version: str) -> None:
    """At /REST, below a context path."""
    async with raw_client(TestXnat(profile=PROFILES[version]), context="/xnat") as web:
        add_session(web.xnat, "S", "E")
        path = "/REST/projects/demo/subjects/S"
        assert (await web.put(path, gender="male")).text == "XNAT_S00001"
        (item,) = (await web.get(path, format="json")).json["items"]
        assert item["children"][0]["items"][0]["data_fields"] == {"gender": "male"}
        assert (await web.get("/REST/projects/demo/subjects")).rows[0]["URI"] == "/data/subjects/XNAT_S00001"


async def test_the_state_tells_of_subjects() -> None:
    """Tests in other processes read them."""
    async with raw_client() as web:
        await web.put(S, gender="male")
        state: dict[str, Any] = (await web.get("/testserver/state")).json
        assert state["subjects"] == [
            {
                "id": "XNAT_S00001",
                "project": "demo",
                "label": "S",
                "demographics": {"gender": "male"},
                "resources": {},
            }
        ]
        assert '<td data-name="Demographics">gender male</td>' in (await web.get("/")).text
