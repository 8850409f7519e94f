"""Examples of each command, for its help and for the manual page."""

from collections.abc import Mapping, Sequence
from typing import Any

EXAMPLES: Mapping[str, Sequence[str]] = {
    "": (
        "asyncimport demo",
        "asyncimport init /data/dicom",
        "asyncimport upload /data/dicom -P MYPROJECT",
        "asyncimport help upload",
    ),
    "init": ("asyncimport init", "asyncimport init /data/dicom"),
    "upload": (
        "asyncimport upload /data/dicom -P MYPROJECT",
        "asyncimport upload /data/dicom -P MYPROJECT --dry-run",
        "asyncimport upload /data/dicom -P MYPROJECT --max-sessions 3",
        "asyncimport upload /data/dicom -P MYPROJECT --plan plan.csv",
        "asyncimport upload /data -P MYPROJECT --path-pattern '{subject}/{session}/**'",
        "asyncimport upload /incoming -P MYPROJECT --watch 5m --max-rate 20MB/s",
        "asyncimport upload /data/dicom -P MYPROJECT --dask tls://head:8786",
    ),
    "plan": (
        "asyncimport plan /data/dicom -P MYPROJECT",
        "asyncimport plan /data/dicom -P MYPROJECT --out plan.csv",
        "asyncimport plan /data/dicom -P MYPROJECT --out plan.csv --split 4",
    ),
    "status": (
        "asyncimport status -P MYPROJECT",
        "asyncimport status -P MYPROJECT SUBJ01_20200131",
        "asyncimport status -P MYPROJECT -o csv > sessions.csv",
    ),
    "report": (
        "asyncimport report -P MYPROJECT --out report.html",
        "asyncimport report -P MYPROJECT --out report.html --anonymous",
        "asyncimport report -P MYPROJECT -o csv > sessions.csv",
    ),
    "verify": (
        "asyncimport verify -P MYPROJECT",
        "asyncimport verify -P MYPROJECT --repair",
        "asyncimport verify -P MYPROJECT --safe-to-delete paths.txt",
    ),
    "forget": (
        "asyncimport forget -P MYPROJECT --session SUBJ01_20200131",
        "asyncimport forget -P MYPROJECT --archived-before 2026-01-31 --yes",
    ),
    "attach": (
        "asyncimport attach report.pdf -P MYPROJECT -E SUBJ01_20200131 -R REPORTS",
        "asyncimport attach --table files.csv -P MYPROJECT",
    ),
    "subjects": (
        "asyncimport subjects subjects.csv -P MYPROJECT --dry-run",
        "asyncimport subjects subjects.csv -P MYPROJECT",
    ),
    "login": (
        "asyncimport login --host https://xnat.example.org --user me",
        "asyncimport login --host https://xnat.example.org --user me --token -p site",
        "asyncimport login --forget site",
    ),
    "doctor": ("asyncimport doctor", "asyncimport doctor -P MYPROJECT -P OTHER"),
    "testserver": (
        "asyncimport testserver",
        "asyncimport testserver --port 0 --xnat 1.9",
    ),
    "demo": ("asyncimport demo", "asyncimport demo --keep"),
}
"""Command lines by command; those of "" are for the help that lists the commands."""


def write_examples(formatter: Any, examples: Sequence[str]) -> None:
    """Write examples with a formatter of Typer's. It would wrap lines, which could then not be copied."""
    with formatter.section("Examples"):
        for example in examples:
            formatter.write(f"  {example}\n")
