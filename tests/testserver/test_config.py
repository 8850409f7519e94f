"""A test XNAT from a JSON file, and the file's schema."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from raw_client import dicom, raw_client, sop

from asyncimport.testserver import PROFILES, config_schema, read_config

WHOLE: dict[str, Any] = {
    "xnat": "1.9",
    "context": "/xnat",
    "users": [{"name": "anna", "password": "secret"}, {"name": "boss", "all_data": True}, {"name": "guestuser"}],
    "projects": [
        {
            "id": "STUDY",
            "name": "A study",
            "prearchive_code": 4,
            "editors": ["anna"],
            "readers": ["guestuser"],
            "series_filter": {"patterns": ["localizer"]},
            "script": {"reject_modalities": ["SR"], "new_uids": ["SOPInstanceUID", "StudyInstanceUID"]},
        },
        {"id": "OTHER", "editors": ["boss"], "aliases": ["O"]},
    ],
    "settings": {"checksums": False, "idle_minutes": 1, "strict_urls": None, "pet_mr": "separate"},
    "series_filter": {"patterns": ["^$"], "mode": "denylist"},
    "script": {"rewrite": False},
    "timing": {"parallel_seconds": 0.001, "threads": 10},
    "faults": [{"kind": "archive", "action": "status", "status": 503, "nth": 1}],
}


@pytest.mark.anyio
async def test_a_site_is_what_its_file_says(tmp_path: Path) -> None:
    """Users and their rights, projects with filters and scripts, settings, service times, faults, the version."""
    site = read_config(WHOLE).make(tmp_path)
    async with raw_client(site, user="anna") as web:
        assert (await web.get("/xapi/siteConfig/buildInfo/version")).text.startswith("1.9")
        assert [row["ID"] for row in (await web.get("/data/projects")).rows] == ["STUDY"]
        into = {"PROJECT_ID": "STUDY"}
        dropped = await web.send(dicom(SeriesDescription="3-plane localizer"), **into)
        assert (dropped.status, dropped.text) == (200, "")
        uri = await web.build_session(dicom(1), dicom(2, Modality="SR"), **into)
        assert (await web.archive(uri)).status == 503
        assert (await web.archive(uri)).status == 303
        (uid,) = site.sop_uids()
        assert uid.startswith("2.25.")
        assert uid != sop(1)
    assert (site.timing.threads, site.idle_minutes, site.storage.checksums) == (10, 1, False)


def test_without_users_or_projects_there_is_the_demo() -> None:
    """An empty file is a site as it comes."""
    site = read_config({}).make(None)
    assert (list(site.users), list(site.projects), site.profile) == (["demo"], ["demo"], PROFILES["1.8"])
    assert read_config(WHOLE).make(None, xnat="1.6.1").profile is PROFILES["1.6.1"]


@pytest.mark.parametrize(
    ("data", "mistakes"),
    [
        ([], ["a configuration is an object"]),
        ({"xnat": "2.0"}, ["xnat: '2.0' is none of 1.5.4, 1.6.1, 1.7, 1.8, 1.9, 1.10"]),
        ({"usres": []}, ['there is no value "usres"']),
        ({"users": [{"password": "x"}, {"name": 3}]}, ["users 1: name is missing", "users 2.name: 3 is not a text"]),
        ({"projects": {}}, ["projects: {} is not a list"]),
        (
            {"projects": [{"id": "P", "series_filter": {"patterns": "x", "mode": "none"}}]},
            [
                'projects 1.series_filter.patterns: "x" is not a list',
                'projects 1.series_filter.mode: "none" is not one of denylist, allowlist',
            ],
        ),
        (
            {"settings": {"clock": 3, "checksums": "no"}},
            ['settings: there is no value "clock"', 'settings.checksums: "no" is not true or false'],
        ),
        (
            {"timing": {"threads": 1.5}, "faults": [3]},
            ["fault 1: a fault is an object, not 3", "timing.threads: 1.5 is not a whole number"],
        ),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_their_place(data: object, mistakes: list[str]) -> None:
    """All of them, a line each."""
    with pytest.raises(ValueError, match=r".") as caught:
        read_config(data)
    assert str(caught.value).splitlines() == mistakes


def test_the_schema_takes_what_the_reader_takes() -> None:
    """And refuses what it refuses."""
    schema = json.loads(json.dumps(config_schema()))
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert not list(validator.iter_errors(WHOLE))
    wrongs: list[object] = [{"xnat": "2.0"}, {"x": 1}, {"users": [{}]}, {"settings": {"clock": 1}}]
    for wrong in [*wrongs, {"faults": [{"kind": "any"}]}]:
        assert list(validator.iter_errors(wrong))
