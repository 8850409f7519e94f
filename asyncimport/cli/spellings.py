"""Former spellings of options. They still work, and no page shows them."""

from collections.abc import Mapping, Sequence

FORMER: Mapping[str, str] = {
    "--quiet-period": "--settle-time",
    "--quiet-time": "--min-age",
    "--max-outage": "--outage-timeout",
    "--limit": "--max-sessions",
    "--map": "--label-map",
    "--merge-patients": "--allow-mixed-patients",
    "--scan-first": "--check-first",
    "--strays": "--orphans",
    "--remove-strays": "--delete-orphans",
    "--since": "--study-since",
    "--reroute": "--relabel",
}
"""The present spelling of each former one."""


def replace_former(words: Sequence[str]) -> list[str]:
    """Return the words of a command line with present spellings."""
    end = words.index("--") if "--" in words else len(words)
    return [*map(_replace_former, words[:end]), *words[end:]]


def _replace_former(word: str) -> str:
    name, equals, value = word.partition("=")
    return f"{FORMER.get(name, name)}{equals}{value}"


def variables_of(option: str) -> list[str]:
    """Return the environment variables of an option: ASYNCIMPORT_MIN_AGE and ASYNCIMPORT_QUIET_TIME for --min-age."""
    names = [option, *(former for former, now in FORMER.items() if now == option)]
    return [f"ASYNCIMPORT_{name.lstrip('-').replace('-', '_').upper()}" for name in names]
