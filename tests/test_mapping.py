"""The cookbook of labels, cooked: files as a recipe shows them, its commands, and the labels that it promises."""

import re
import shlex
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import anyio
import pytest
from builders import image, write
from conftest import Commands

from asyncimport.testserver import Project, TestXnat

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]

PAGE = (Path(__file__).parent.parent / "docs" / "mapping.md").read_text("utf-8")
FILE = re.compile(r"^(\S+) +([A-Z-])   (.*)$", re.MULTILINE)
ROW = re.compile(r"^\| ([A-Z]) \| (\S+) \| (\S+) \| (\S+) \|$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Recipe:
    """A section of the page: its blocks by their language, and the rows of its table."""

    title: str
    text: str

    def block(self, language: str) -> str:
        """Return its block in a language, or an empty text."""
        found = re.search(rf"^```{language}\n(.*?)^```$", self.text, re.MULTILINE | re.DOTALL)
        return found[1] if found else ""

    @property
    def rows(self) -> list[tuple[str, ...]]:
        """Return study, project, subject and session of each row."""
        return ROW.findall(self.text)


RECIPES = [
    recipe for part in PAGE.split("\n## ")[1:] if (recipe := Recipe(part.partition("\n")[0], part)).block("console")
]


def lay_out(recipe: Recipe, data: Path) -> None:
    """Make the files of a recipe. A study has the number of its letter, and a series for each modality."""
    for number, (name, letter, said) in enumerate(FILE.findall(recipe.block("text")), start=1):
        if letter == "-":
            write(data / name, b"nothing that is sent")
            continue
        study = f"1.2.{ord(letter)}"
        fields = dict(pair.split("=", 1) for pair in said.split(", "))
        series = f"{study}.{len(fields.get('Modality', ''))}.{ord(fields.get('Modality', 'M')[0])}"
        write(data / name, image(number, StudyInstanceUID=study, SeriesInstanceUID=series, **fields))


def test_the_page_has_a_dozen_layouts() -> None:
    """Each with files, commands and a table; no two alike."""
    assert len(RECIPES) >= 12
    assert all(FILE.search(recipe.block("text")) and recipe.rows for recipe in RECIPES)
    assert max(Counter(recipe.block("console") for recipe in RECIPES).values()) == 1


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.title)
async def test_a_recipe_gives_the_labels_of_its_table(
    recipe: Recipe, commands: Commands, xnat: TestXnat, url: str, tmp_path: Path
) -> None:
    """In a plan, and in the archive."""
    commands.directory = tmp_path
    lay_out(recipe, tmp_path / "data")
    for project in {project for _, project, _, _ in recipe.rows}:
        xnat.add_project(Project(project))
    commands.login(url)
    (tmp_path / "patients.csv").write_text(recipe.block("csv"))
    (tmp_path / "fill.py").write_text(recipe.block("python").replace("/data/", f"{tmp_path}/data/"))
    planned, archived = [], []
    for line in recipe.block("console").splitlines():
        words = [re.sub("^/data/", f"{tmp_path}/data/", word) for word in shlex.split(line.removeprefix("$ "))]
        if words[0] == "python3":
            await anyio.run_process([sys.executable, *words[1:]], cwd=tmp_path)
            continue
        if words[1] == "plan":
            assert (await commands(*words[1:])).code == 0
            continue
        if "--plan" not in words:
            plan = await commands("plan", *words[2:], "-o", "json")
            assert plan.code == 0, plan.err
            planned += [(row["study_uid"], row["project"], row["subject"], row["session"]) for row in plan.json["rows"]]
        upload = await commands(*words[1:], "-q", "-o", "json")
        assert upload.code == 0, upload.out + upload.err
        archived += [
            (one["study_uid"], one["project"], one["subject"], one["session"])
            for one in upload.json["details"]
            if one["state"] == "archived"
        ]
    promised = sorted((f"1.2.{ord(letter)}", *labels) for letter, *labels in recipe.rows)
    assert sorted(archived) == promised
    assert not planned or sorted(planned) == promised
