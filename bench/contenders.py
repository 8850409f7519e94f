"""The contenders, as people run them. Each makes a command for the same files and server."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from bench import dask_cluster
from bench.corpus import Corpus, Entry, SessionEntry
from bench.measure import Claim, Command, Ended
from bench.servers import Served
from bench.slow_disk import Disk
from bench.trees import ROOT, clean_environment, python_path
from bench.xnatctl import XNATCTL


@dataclass(frozen=True, slots=True)
class Job:
    """The files to move, and their target."""

    corpus: Corpus
    served: Served
    place: Path
    boxed: float | None = None
    options: tuple[str, ...] = ()
    """Further options of the tool itself."""
    most: int | None = None
    """The number of files for a contender that is known to be very slow."""
    disk: Disk | None = None
    """The disk that the source files are on, if it is slow."""
    sampled: Path | None = None
    """The file for a profile, if one is wanted."""
    cluster: tuple[str, Mapping[str, str]] | None = None
    """The address of a cluster, and what its clients have in their environment."""

    def module(self, name: str) -> list[str]:
        """Return the command of a Python module, with a slow source and a profile if wanted."""
        around = ["bench.slow_disk", str(self.corpus.root), *map(str, self.disk)] if self.disk else []
        around += ["bench.profile", str(self.sampled)] if self.sampled else []
        return [sys.executable, "-P", "-m", *around, name]

    @property
    def environment(self) -> dict[str, str]:
        """The environment in which asyncimport and xnatctl find server and login."""
        served = self.served
        names = {
            "XNAT_HOST": served.url,
            "XNAT_URL": served.url,
            "XNAT_USER": served.user,
            "XNAT_PASS": served.password,
        }
        trust = {"SSL_CERT_FILE": served.bundle} if served.bundle else {}
        return {**clean_environment(), **names, **trust, "NO_COLOR": "1", "COLUMNS": "200"}

    def files(self) -> Iterator[tuple[SessionEntry, Entry]]:
        """Yield all files with their sessions."""
        for session in self.corpus.listed():
            for entry in session.entries:
                yield session, entry

    def query(self, session: SessionEntry) -> str:
        """Return the query of an import as asyncimport makes it, so that the server does the same for all."""
        prefix = self.served.prefix
        return (
            f"import-handler=gradual-DICOM&inbody=true&PROJECT_ID={quote(self.served.project)}"
            f"&SUBJECT_ID={quote(prefix + session.subject)}&EXPT_LABEL={quote(prefix + session.label)}"
            "&rename=true&prevent_auto_commit=true&SOURCE=uploader"
        )

    def cookie(self) -> str:
        """Log in with curl, which keeps the password out of its command line, and return the cookie."""
        config = self.place / "login.curl"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.touch(mode=0o600)
        config.write_text(
            f'user = "{self.served.user}:{self.served.password}"\nurl = "{self.served.url}/data/JSESSION"\n'
            f'request = "POST"\nsilent\nfail\n{self.trust}'
        )
        words = [*self.served.within, "curl", "-K", str(config)]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()

    @property
    def trust(self) -> str:
        """The line of curl's configuration for the certificate authority, if there is one."""
        return f'cacert = "{self.served.bundle}"\n' if self.served.bundle else ""


@dataclass(frozen=True, slots=True)
class Contender:
    """A tool that moves files: its name in tables, description and command, and why it cannot run."""

    name: str
    what: str
    make: Callable[[Job], Command]
    lacks: Callable[[], str] = field(default=lambda: "")
    slow: bool = False
    """Whether a part of the files is enough for it."""
    ours: bool = False
    workers: int = 0
    """Of a cluster of Dask that runs before it starts."""
    tree: Path = ROOT


def _upload(tree: Path, *workers: str) -> Callable[[Job], Command]:
    def make(job: Job) -> Command:
        served = job.served
        labels = ("-S", f"{served.prefix}{{PatientID}}", "-E", f"{served.prefix}{{PatientID}}_{{StudyDate}}")
        words: list[str | os.PathLike[str]] = [*job.module("asyncimport"), "upload", job.corpus.root]
        words += ["-P", served.project, "-o", "json", "-q", "--state-dir", job.place / "state", *workers]
        words += [*(labels if served.prefix else ()), *(("--ca-bundle", served.bundle) if served.bundle else ())]
        if served.within and not served.bundle:
            words.append("--insecure")  # its address is not this machine's, for all it knows
        words += ["--dask", job.cluster[0]] if job.cluster else []
        words += [*job.options, *(("--max-duration", f"{job.boxed}s") if job.boxed is not None else ())]

        def read(ended: Ended) -> Claim:
            try:
                summary = json.loads(ended.out)
            except json.JSONDecodeError:
                return Claim(problem=f"exit code {ended.code}: {_last_line(ended.err)}")
            # An earlier run may have stored them, in which case nothing is sent.
            stored = summary["files"]["stored"] + summary["files"]["already_stored"]
            if job.boxed is not None:
                problem = "" if ended.code in {0, 130} else f"exit code {ended.code}"
            else:
                unverified = [one for one in summary["details"] if one["verified"] != "uids"]
                problem = f"exit code {ended.code}: {_last_line(ended.err)}" if ended.code else ""
                problem = problem or (f"{len(unverified)} sessions are not verified" if unverified else "")
            return Claim(stored, problem, bytes=summary["bytes"].get("sent") or None)

        # The prepared rows behind the instant server are not from this journal. Older revisions ignore the option.
        env = {**job.environment, "PYTHONPATH": python_path(tree)["PYTHONPATH"], "ASYNCIMPORT_ADOPT_ROWS": "1"}
        env.update(job.cluster[1] if job.cluster else {})
        return Command(words, env, job.corpus.files, job.corpus.bytes, read)

    return make


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "it says nothing"


def _ceiling(number: int, *, memory: bool = False) -> Callable[[Job], Command]:
    def make(job: Job) -> Command:
        listed = job.place / "list"
        listed.parent.mkdir(parents=True, exist_ok=True)
        with listed.open("w") as lines:
            for session, entry in job.files():
                path = str(job.corpus.root / entry.path)
                lines.write(json.dumps([path, job.query(session), entry.size]) + "\n")
        served = job.served
        words: list[str | os.PathLike[str]] = [*job.module("bench.ceiling"), served.url, listed]
        words += ["-n", str(number), "--user", served.user, *(["--memory"] if memory else [])]
        words += ["--bundle", served.bundle] if served.bundle else []

        def read(ended: Ended) -> Claim:
            if ended.code:
                return Claim(problem=f"exit code {ended.code}: {_last_line(ended.err)}")
            told = json.loads(ended.out)
            return Claim(int(told["kept"]), not_counted=told["loaded"] if memory else 0.0)

        env = {**job.environment, **python_path(ROOT)}
        return Command(words, env, job.corpus.files, job.corpus.bytes, read, stdin=served.password + "\n")

    return make


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def _kept(ended: Ended) -> Claim:
    """Count the status and size of each reply, as curl prints them. XNAT did not keep a file with an empty reply."""
    kept = sum(line.startswith("200 ") and line != "200 0" for line in ended.out.splitlines())
    return Claim(kept, f"exit code {ended.code}: {_last_line(ended.err)}" if ended.code else "")


def _curl_parallel(number: int, option: str) -> Callable[[Job], Command]:
    def make(job: Job) -> Command:
        cookie, plan = job.cookie(), job.place / "plan.curl"
        head = (
            f'request = "POST"\ncookie = "JSESSIONID={cookie}"\nheader = "Content-Type: application/dicom"\n'
            f'header = "Expect:"\nsilent\nshow-error\noutput = "/dev/null"\n{job.trust}'
            'write-out = "%{http_code} %{size_download}\\n"\n'
        )
        mark = "@" if option == "data-binary" else ""
        with plan.open("w") as lines:
            for at, (session, entry) in enumerate(job.files()):
                lines.write("next\n" if at else "")
                lines.write(f'{head}url = "{job.served.url}/data/services/import?{job.query(session)}"\n')
                lines.write(f"{option} = {_quoted(Path(f'{mark}{job.corpus.root / entry.path}'))}\n")
        plan.chmod(0o600)
        words = ["curl", "--parallel", "--parallel-max", str(number), "-K", str(plan)]
        return Command(words, job.environment, job.corpus.files, job.corpus.bytes, _kept)

    return make


_LOOP = r"""
while IFS=$'\t' read -r path url; do
    curl -K options --data-binary "@$path" "$url" </dev/null
done <list
"""


def _curl_loop(job: Job) -> Command:
    """Run the classic loop: a curl for each file, all with one cookie."""
    cookie = job.cookie()
    (job.place / "options").write_text(
        f'cookie = "JSESSIONID={cookie}"\nheader = "Content-Type: application/dicom"\nheader = "Expect:"\nsilent\n'
        f'show-error\noutput = "/dev/null"\n{job.trust}write-out = "%{{http_code}} %{{size_download}}\\n"\n'
    )
    files = size = 0
    with (job.place / "list").open("w") as lines:
        for session, entry in job.files():
            if job.most is not None and files >= job.most:
                break
            lines.write(f"{job.corpus.root / entry.path}\t{job.served.url}/data/services/import?{job.query(session)}\n")
            files, size = files + 1, size + entry.size
    return Command(["bash", "-c", _LOOP], job.environment, files, size, _kept)


def _xnatctl(number: int, mode: str) -> Callable[[Job], Command]:
    def make(job: Job) -> Command:
        served, lines = job.served, ["status=0"]
        for session in job.corpus.listed():
            folder = job.corpus.root / session.subject / session.label
            lines.append(
                f"'{XNATCTL.program}' session upload '{folder}' -P '{served.project}' "
                f"-S '{served.prefix}{session.subject}' -E '{served.prefix}{session.label}' --mode {mode} "
                f"-w {number} --prearchive -q </dev/null || status=$?"
            )
        lines.append("exit $status")
        env = {**job.environment, "XNAT_NO_UPDATE_CHECK": "1"}

        def read(ended: Ended) -> Claim:
            return Claim(problem=f"exit code {ended.code}: {_last_line(ended.err + ended.out)}" if ended.code else "")

        return Command(["bash", "-c", "\n".join(lines)], env, job.corpus.files, job.corpus.bytes, read)

    return make


def _needs(program: str) -> Callable[[], str]:
    return lambda: "" if shutil.which(program) else f"{program} is not installed"


def contenders(against: Path | None = None, revision: str = "") -> Mapping[str, Contender]:
    """Return all contenders by name, with those of another tree if given."""
    every = []
    trees = [(ROOT, "asyncimport", "this tree")]
    if against is not None:
        trees.append((against, f"asyncimport@{revision}", f"revision {revision}"))
    for tree, name, what in trees:
        every += [
            Contender(f"{name} auto", f"`asyncimport upload` of {what}, as users run it", _upload(tree), ours=True),
            *(
                Contender(f"{name} {n}", f"the same with -w {n}", _upload(tree, "-w", str(n)), ours=True)
                for n in (1, 2, 4, 8, 16, 32, 64)
            ),
            *(
                Contender(
                    f"{name} {word}", f"the same with --compress {value}", _upload(tree, "--compress", value), ours=True
                )
                for word, value in (("never", "never"), ("always", "always"), ("compress", "auto"))
            ),
            Contender(
                f"{name} paths",
                "the same with labels out of directories, so that sessions end during the scan",
                _upload(
                    tree, "-w", "auto", "--path-pattern", "{subject}/{session}/**", "-S", "{subject}", "-E", "{session}"
                ),
                ours=True,
            ),
            Contender(
                f"{name} dask 4", "the same with 4 workers of a cluster of Dask, which has been started before",
                _upload(tree), dask_cluster.lacks, ours=True, workers=4, tree=tree,
            ),
            Contender(
                f"{name} local 4", "the same with --dask local:4, which starts them",
                _upload(tree, "--dask", "local:4"), dask_cluster.lacks, ours=True,
            ),
        ]  # fmt: skip
    for n in (4, 16):
        every += [
            Contender(f"ceiling {n}", f"aiohttp alone, {n} in flight, files read in the loop", _ceiling(n)),
            Contender(f"ceiling memory {n}", "the same with bodies in memory", _ceiling(n, memory=True)),
            Contender(
                f"curl data {n}",
                f"curl --parallel --parallel-max {n} --data-binary, which loads every body first",
                _curl_parallel(n, "data-binary"),
                _needs("curl"),
            ),
            Contender(
                f"curl -T {n}",
                f"curl --parallel --parallel-max {n} -T",
                _curl_parallel(n, "upload-file"),
                _needs("curl"),
            ),
            Contender(
                f"xnatctl {n}",
                f"xnatctl session upload --mode gradual -w {n}, one call a session",
                _xnatctl(n, "gradual"),
                lambda: XNATCTL.lacks,
            ),
            Contender(
                f"xnatctl zip {n}",
                f"the same with --mode zip: {n} zips of many files at a time",
                _xnatctl(n, "zip"),
                lambda: XNATCTL.lacks,
            ),
        ]
    every.append(Contender("curl loop", "one curl a file, with one cookie", _curl_loop, _needs("curl"), slow=True))
    return {contender.name: contender for contender in every}
