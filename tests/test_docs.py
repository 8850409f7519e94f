"""README and docs say what the program does."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from messages import messages
from typer.main import get_command

from asyncimport import __version__, errors
from asyncimport.cli.app import app
from asyncimport.cli.output import summary_json
from asyncimport.model.csv_table import normalized
from asyncimport.routing.plan_file import COLUMNS
from asyncimport.routing.problems import ProblemCode

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / ".github").glob("*.md"))]

# Typer keeps its parser to itself; what it makes of our functions can be read all the same.
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]


def section(page: str, title: str) -> str:
    """Return the section of this title of a page in docs, up to the next heading."""
    _, _, rest = (ROOT / "docs" / page).read_text("utf-8").partition(f"\n## {title}\n")
    assert rest, title
    return re.split(r"\n#", rest)[0]


def options(name: str) -> set[str]:
    """Return the options of a command, in all their spellings."""
    return {
        spelling
        for parameter in COMMANDS[name].params
        for spelling in [*parameter.opts, *parameter.secondary_opts]
        if spelling.startswith("-")
    }


def test_the_commands_of_the_docs_are_the_live_ones() -> None:
    """The table names every command, and no other."""
    named = set(re.findall(r"^\| `asyncimport (\w+)", section("options.md", "Commands"), re.MULTILINE))
    assert named == set(COMMANDS)


def test_the_options_of_the_docs_are_the_live_ones() -> None:
    """The table names every option of `upload` with all its spellings, and no other."""
    named: set[str] = set()
    for row in re.findall(r"^\| (`-.*?) \|", section("options.md", "Options of `upload`"), re.MULTILINE):
        named |= set(re.findall(r"`(-[\w-]+)`", row))
    assert named == options("upload")


def test_the_options_that_only_other_commands_have_are_the_live_ones() -> None:
    """Their table names each that `upload` lacks, with its command."""
    named: dict[str, set[str]] = {name: set() for name in COMMANDS}
    for name, row in re.findall(
        r"^\| `(\w+)` \| (`-.*?) \|", section("options.md", "Options of other commands"), re.MULTILINE
    ):
        named[name] |= set(re.findall(r"`(-[\w-]+)`", row))
    assert named == {name: options(name) - options("upload") for name in COMMANDS}


def test_every_option_of_upload_has_its_environment_variable() -> None:
    """As docs/options.md says: cron and containers need no command line; asking for help is no setting."""
    for parameter in COMMANDS["upload"].params:
        long = next((name for name in parameter.opts if name.startswith("--")), None)
        if long is not None and not parameter.is_eager:
            variables = [parameter.envvar] if isinstance(parameter.envvar, str) else parameter.envvar or []
            assert f"ASYNCIMPORT_{long[2:].replace('-', '_').upper()}" in variables, long


def test_help_is_there_at_once() -> None:
    """The list of commands loads none of them, nor what they need."""
    script = (
        "import sys; from asyncimport.cli.app import app; app(['--help'], standalone_mode=False); "
        "sys.exit(bool({'aiohttp', 'pydicom', 'rich'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0
    assert all(f"\n  {name} " in found.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_everything_has_a_help_text(name: str) -> None:
    """Each command and each of its options says what it does."""
    command = COMMANDS[name]
    assert command.help
    assert [parameter.name for parameter in command.params if not getattr(parameter, "help", "")] == []


def test_upload_shows_a_dozen_options() -> None:
    """`--help` shows those used most, not all."""
    shown = [
        parameter for parameter in COMMANDS["upload"].params if not parameter.hidden and parameter.name != "sources"
    ]
    assert len(shown) in range(10, 15)


def test_the_exit_codes_of_the_docs_are_those_of_the_errors() -> None:
    """Every error that ends a run has its code in the table."""
    rows = re.findall(r"^\| ([\d, ]+) \|", section("options.md", "Exit codes"), re.MULTILINE)
    documented = {int(code) for row in rows for code in row.split(",")}
    kinds = vars(errors).values()
    used = {kind.exit_code for kind in kinds if isinstance(kind, type) and issubclass(kind, errors.AsyncimportError)}
    assert documented == used | {0, 8, 9, 130, 143}


def test_the_problems_of_the_docs_are_those_of_the_table() -> None:
    """Each problem that a plan or a dry run tells stands there once, with its severity."""
    told: dict[str, str] = {}
    for codes, severities in re.findall(r"^\| (`.*?) \| (.*?) \|", section("plan.md", "Problems"), re.MULTILINE):
        named, said = re.findall(r"`([\w-]+)`", codes), severities.split(", ")
        told |= dict(zip(named, said * len(named) if len(said) == 1 else said, strict=len(said) > 1))
    assert told == {code.value: code.severity.value for code in ProblemCode}


def test_the_json_of_the_docs_is_what_upload_writes() -> None:
    """The example has the keys of the real thing, in its order."""
    example = json.loads(re.findall(r"```json\n(.*?)```", section("json.md", "The JSON summary"), re.DOTALL)[0])
    live = summary_json(None, run=None, host=None, seconds=0.0, code=0)
    assert list(example) == list(live)
    for key in ("files", "bytes", "sessions"):
        assert list(example[key]) == list(live[key])  # type: ignore[call-overload]


def strings(file: Path) -> set[str]:
    """Return the strings of a module; what differs in those with fields is `…`."""
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    found = {
        "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in text.values)
        for text in nodes
        if isinstance(text, ast.JoinedStr)
    }
    return found | {text.value for text in nodes if isinstance(text, ast.Constant) and isinstance(text.value, str)}


def test_the_keys_of_other_commands_in_the_docs_are_written_by_them() -> None:
    """Each key that the table gives to a command is a string of its module, or of those that commands share."""
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", section("json.md", "Other commands"), re.MULTILINE)
    assert len(rows) > 4
    for name, cell in rows:
        written = [strings(ROOT / "asyncimport" / "cli" / f"{module}.py") for module in (name, "output", "conclusion")]
        assert set(re.findall(r"`(\w+)`", cell)) <= set[str]().union(*written), name


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Relative links in README and docs name files and headings that exist."""
    for name, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#?([^)]*)\)", page.read_text("utf-8")):
        target = page.parent / name if name else page
        assert target.exists(), name
        assert not anchor or anchor in anchors(target), f"{name}#{anchor}"


def test_the_readme_is_a_front_page() -> None:
    """It has 120 lines at most, and leads to each page of docs, but for those that are other files on the site."""
    assert len(README.splitlines()) <= 120
    pages = {page.name for page in PAGES if page.parent.name == "docs"} - {"index.md", "changes.md", "benchmark.md"}
    assert [name for name in sorted(pages) if f"(docs/{name})" not in README] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_to_type_exist(page: Path) -> None:
    """Each line of a block that calls asyncimport names a command and its options, by present spellings."""
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    for line in "\n".join(blocks).splitlines():
        for name, rest in re.findall(r"(?:^|[$|&;/] ?)asyncimport (\w+)([^|&;#]*)", re.sub(r"'[^']*'", "''", line)):
            assert name in COMMANDS, line
            assert set(re.findall(r"(?<=\s)-[\w-]+", rest)) <= options(name), line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_page_names_an_option_that_does_not_exist(page: Path) -> None:
    """Nor a former spelling. Two are of all commands, `--changed` is of tests/mutants.py, three are xnatctl's."""
    text = re.sub(r"^```(?:sh|bash|console)\n.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    named = {
        option for code in re.findall(r"`([^`]+)`", text) for option in re.findall(r"(?<![\w-])--[a-z][\w-]*", code)
    }
    others = {"--help", "--install-completion", "--changed", "--mode", "--prearchive", "--direct-archive"}
    assert named - others <= set().union(*map(options, COMMANDS))


def test_the_columns_of_a_plan_in_the_docs_are_the_live_ones() -> None:
    """The table names each, with its other names, but for those that differ in case, blanks and underscores only."""
    text = (ROOT / "docs" / "plan-file.md").read_text("utf-8")
    named = {
        name: re.findall(r"`([^`]+)`", others)
        for name, others in re.findall(r"^\| `(\w+)` \|(.*?)\|", text, re.MULTILINE)
    }
    assert named == {
        name: [other for other in others if normalized(other) != normalized(name)] for name, others in COLUMNS.items()
    }


PAGE_OF_MESSAGES = (ROOT / "docs" / "troubleshooting.md").read_text("utf-8")
EXPLAINED = {
    message
    for cell in re.findall(r"^\| (`.*?`) \|", PAGE_OF_MESSAGES, re.MULTILINE)
    for message in re.findall(r"`([^`]+)`", cell)
}


def as_pattern(message: str) -> re.Pattern[str]:
    """Return a pattern for a message of the page, in which `…` stands for anything."""
    return re.compile(".*".join(map(re.escape, re.split("…+", message))))


def test_the_messages_of_the_docs_are_those_of_the_program() -> None:
    """What the page of messages explains is what somebody may see; `…` stands for what differs."""
    written = {text for file in (ROOT / "asyncimport").rglob("*.py") for text in strings(file)} | messages().keys()
    unknown = [one for one in EXPLAINED if not any(one.strip("… ;") in text for text in written)]
    assert [one for one in unknown if not any(as_pattern(one).match(text) for text in written)] == []


def test_every_message_of_the_program_is_in_the_docs() -> None:
    """A reason that somebody may see is on the page of messages; its code is read, so that none is forgotten."""
    pages = list(map(as_pattern, EXPLAINED))
    assert all(sum(map(str.isalpha, message)) > 3 for message in EXPLAINED)
    said = messages()
    assert len(said) > 350
    assert {text: module for text, module in said.items() if not any(page.match(text) for page in pages)} == {}


def test_the_readme_names_two_commands_and_the_guarantees() -> None:
    """It opens with what it does, that it does not de-identify, and what to type."""
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    assert blocks[0].strip().endswith("asyncimport demo")
    assert blocks[1].strip().endswith("pytest")
    assert "It does not de-identify" in README[:1500]


def test_typer_is_what_we_take_it_for() -> None:
    """Errors of parsing are recognised by a base of BadParameter, which must be an exception of their own."""
    parsing = typer.BadParameter.__bases__[0]
    assert issubclass(parsing, Exception)
    assert parsing not in {Exception, RuntimeError, ValueError}


def test_the_tests_that_pages_name_exist() -> None:
    """A cell of a table may only say what a test holds."""
    named = {name for page in PAGES for name in re.findall(r"`(test_\w+\.py(?:::[\w:]+)?)`", page.read_text("utf-8"))}
    assert len(named) > 10
    for name in sorted(named):
        file, *parts = name.split("::")
        texts = [path.read_text("utf-8") for path in Path(__file__).parent.rglob(file)]
        assert texts, name
        assert any(all(re.search(rf"(?:def|class) {part}\b", text) for part in parts) for text in texts), name


def test_the_citation_is_of_this_version() -> None:
    """Those who cite it say which."""
    assert f"\nversion: {__version__}\n" in (ROOT / ".github" / "CITATION.cff").read_text("utf-8")
