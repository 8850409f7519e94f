"""The table of scenarios, each with its files, servers, contenders and targets."""

from dataclasses import dataclass, field
from typing import Literal

from bench.corpus import Part, Shape
from bench.servers import LINKS, MODELS, link_name
from bench.slow_disk import Disk

Kind = Literal["transfer", "sweep", "profile", "memory", "again", "scan", "resume", "start-up"]

SWEEP = (1, 2, 4, 8, 16, 32, 64)
AUTO = "asyncimport auto"
AUTO_COMPRESS = "asyncimport compress"
DASK = "asyncimport dask 4"


@dataclass(frozen=True, slots=True)
class Target:
    """A figure to reach: `metric` of `ours` (divided by `over`, or minus it) is at least or at most `bound`.

    `per` is the metric of `over`, where that is another.
    """

    metric: str
    ours: str
    op: Literal[">=", "<="]
    bound: float
    over: str = ""
    per: str = ""
    less: str = ""
    models: tuple[str, ...] = ()
    """The servers for which it counts; none: all."""

    def __str__(self) -> str:
        other = (
            f" / {f'{self.per} of ' if self.per else ''}{self.over}"
            if self.over
            else f" - {self.less}"
            if self.less
            else ""
        )
        return f"{self.metric}: {self.ours}{other} {self.op} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Scenario:
    """One scenario. Names of contenders and models are those of `rivals` and `servers`.

    `shapes` are the collections: one, but where collections are what is compared; those have names of their own, and
    take the place of contenders. `quick` are the contenders of a quick run, `quick_models` its
    servers; where it has none, it takes no part in a quick run.
    """

    name: str
    what: str
    kind: Kind
    shapes: tuple[Shape, ...]
    models: tuple[str, ...] = ()
    contenders: tuple[str, ...] = (AUTO,)
    targets: tuple[Target, ...] = ()
    rounds: int = 5
    reference: str = ""
    """The contender with which the others are compared."""
    quick: tuple[str, ...] = ()
    quick_models: tuple[str, ...] | None = None
    options: tuple[str, ...] = ()
    disk: Disk | None = None
    """The disk that the source files are on, of each machine, if it is slow."""
    notes: tuple[str, ...] = field(default=())


def _shape(name: str, *parts: Part) -> Shape:
    return Shape(name, parts)


_RIVALS = (
    AUTO, "asyncimport 4", "asyncimport 16", "curl loop", "curl data 4", "curl data 16", "curl -T 4", "curl -T 16",
    "xnatctl 4", "xnatctl 16", "ceiling 4", "ceiling 16", "ceiling memory 4", "ceiling memory 16",
)  # fmt: skip
_PARALLEL = (AUTO, "asyncimport 4", "asyncimport 16", "curl data 4", "curl data 16", "ceiling 4", "ceiling 16")


def _against_all(share: float) -> tuple[Target, ...]:
    """Return the targets of the three sizes of images, with the share of the ceiling on the instant server."""
    instant, realistic = ("instant",), ("realistic",)
    return (
        Target("rate", AUTO, ">=", share, over="ceiling 16", models=instant),
        Target("rate", AUTO, ">=", 0.97, over="ceiling 16", models=realistic),
        *(Target("rate", f"asyncimport {n}", ">=", 1.0, over=f"curl data {n}", models=realistic) for n in (4, 16)),
        Target("rate", "asyncimport 16", ">=", 20.0, over="curl loop", models=instant),
        Target("rate", "asyncimport 16", ">=", 3.0, over="xnatctl 16", models=instant),
        Target("cpu_ms", "asyncimport 16", "<=", 1 / 3, over="xnatctl 16", models=instant),
    )


_SMALL = _shape("20 kB x 20,000", Part(20_000, 20_000, 20))
_MR = _shape("131 kB x 4,000", Part(4_000, 131_000, 8))
_CT = _shape("526 kB x 2,000", Part(2_000, 526_000, 4))


def _images(megabytes: int) -> Shape:
    """Return CT and MR images of two series each, as scanners write them; together they deflate by 2.0."""
    parts = (
        Part(round(megabytes / 4 / (size / 1e6)), size, 1, image=name)
        for name, size in (
            ("693_UNCI.dcm", 525_000),
            ("examples_overlay.dcm", 291_000),
            ("693_UNCR.dcm", 525_000),
            ("MR-SIEMENS-DICOM-WithOverlays.dcm", 469_000),
        )
    )
    return Shape(f"CT and MR images, {megabytes:,} MB", tuple(parts))


def _jpegs(megabytes: int) -> Shape:
    """Return CT and MR images in JPEG and JPEG 2000."""
    parts = (
        Part(round(megabytes / 3 / (size / 1e6)), size, 1, image=name)
        for name, size in (("bad_sequence.dcm", 183_000), ("693_J2KR.dcm", 106_000), ("MR2_J2KI.dcm", 112_000))
    )
    return Shape(f"JPEG images, {megabytes:,} MB", tuple(parts))


_COMPRESS = ("asyncimport never", "asyncimport always", AUTO_COMPRESS)


def _over_links(megabits: int, megabytes: int, *targets: Target) -> tuple[Scenario, Scenario]:
    """Return a scenario with uncompressed images and one with JPEG, over links of one speed."""
    models = tuple(
        link_name(megabits, milliseconds, loses=loses)
        for rate, milliseconds in LINKS
        if rate == megabits
        for loses in (False, True)
    )
    notes: tuple[str, ...] = ("never, always and compress: --compress never, always and auto, with -w auto",)
    zips: tuple[str, ...] = ("xnatctl zip 4",)
    if MODELS[models[0]].settings["sink"]:
        notes += ("nginx unpacks no zip, and cannot count the files in those of xnatctl, which are left out",)
        zips = ()
    return (
        Scenario(
            f"links-{megabits}", f"CT and MR images over TLS and links of {megabits:,} Mbit/s", "transfer",
            (_images(megabytes),), models,
            (*_COMPRESS, "ceiling 4", "ceiling 16", "curl -T 16", "xnatctl 16", *zips), targets, rounds=3,
            reference="ceiling 16", quick=(AUTO_COMPRESS, "xnatctl zip 4"), notes=notes,
            quick_models=models[2:3] if megabits == 100 else (),
        ),
        Scenario(
            f"links-{megabits}-jpeg", f"JPEG images over TLS and links of {megabits:,} Mbit/s", "transfer",
            (_jpegs(megabytes),), models, ("asyncimport never", AUTO_COMPRESS, "ceiling 16"),
            (Target("rate", AUTO_COMPRESS, ">=", 0.98, over="asyncimport never"),), rounds=3, reference="ceiling 16",
            quick_models=(), notes=notes,
        ),
    )  # fmt: skip


_TABLE = (
    Scenario(
        "small", "small files: how much a file costs", "transfer", (_SMALL,), ("instant", "realistic"), _RIVALS,
        _against_all(0.60), reference="ceiling 16",
        quick=(AUTO, "curl loop", "curl data 4", "curl -T 4", "xnatctl 4", "ceiling 4", "ceiling memory 4"),
        quick_models=("instant",),
    ),
    Scenario(
        "mr", "MR images", "transfer", (_MR,), ("instant", "realistic"), _RIVALS,
        (*_against_all(0.55), Target("cpu_ms", AUTO, "<=", 1.6, over="ceiling 16", models=("instant",))),
        reference="ceiling 16", quick=(AUTO,), quick_models=("realistic",),
    ),
    Scenario(
        "ct", "CT images", "transfer", (_CT,), ("instant", "realistic"), _RIVALS, _against_all(0.65),
        reference="ceiling 16", quick=(AUTO,), quick_models=(),
    ),
    *(
        Scenario(
            name, what, "transfer", (_shape(f"131 kB x {files:,}", Part(files, 131_000, 4)),), ("far",),
            (*_PARALLEL, "curl -T 16", "xnatctl 16"),
            tuple(Target("rate", f"asyncimport {n}", ">=", 1.0, over=f"curl data {n}") for n in (4, 16)),
            rounds=3, reference="ceiling 16", quick=("asyncimport 16",), quick_models=None if files < 5_000 else (),
        )
        for name, what, files in (("far", "100 ms away", 2_000), ("far-long", "the same for a minute", 8_000))
    ),
    Scenario(
        "tls", "over TLS", "transfer", (_MR,), ("tls",), _PARALLEL,
        (Target("rate", AUTO, ">=", 0.70, over="ceiling 16"),), reference="ceiling 16", quick=("ceiling 4",),
    ),
    Scenario(
        "faults", "one request in a hundred fails", "transfer", (_shape("20 kB x 4,000", Part(4_000, 20_000, 8)),),
        ("faults",), (AUTO, "asyncimport 16", "curl data 16", "xnatctl 16", "ceiling 16"), rounds=3,
        reference="ceiling 16", quick=(AUTO,), options=("--quiet-period", "1s"),
        notes=(
            "asyncimport runs with --quiet-period 1s; by default a session in which a request broke off waits for 30 s",
            "who does not repeat fails here, and is shown as failed",
        ),
    ),
    Scenario(
        "slow-archive", "archiving takes long", "transfer",
        (_shape("20 kB x 4,000 in 40 sessions", Part(4_000, 20_000, 40)),), ("slow-archive",),
        (AUTO, "asyncimport 16", "ceiling 16"),
        (Target("tail", AUTO, "<=", 0.08), Target("archiving", AUTO, "<=", 1.1)), rounds=3,
        reference="ceiling 16", quick=(AUTO,),
        notes=("nothing but asyncimport archives: the ceiling only shows how long the sending takes",
               "archiving: how long it took, over how long it takes when no finalizer waits while a session is ready"),
    ),
    Scenario(
        "site", "a busy site, whose prearchive and archive workers are slow", "transfer",
        (_shape("20 kB x 10,000 in 200 sessions", Part(10_000, 20_000, 200)),), ("site", "site-nfs", "site-disk"),
        (AUTO, "asyncimport 16", "ceiling 16"), rounds=3, reference="ceiling 16", quick=(AUTO,),
        notes=("nothing but asyncimport archives: the ceiling only shows how long the sending takes",),
    ),
    Scenario(
        "short", "sessions of four files, of which the first goes alone", "transfer",
        (_shape("20 kB x 1,600 in 400 sessions", Part(1_600, 20_000, 400)),), ("realistic", "far"),
        (AUTO, "asyncimport 16", "ceiling 16"), rounds=3, reference="ceiling 16", quick_models=(),
        notes=("nothing but asyncimport archives: the ceiling only shows how long the sending takes",),
    ),
    Scenario(
        "full-link", "a link that is full: 6 MB/s and 30 ms of real TCP, between two network namespaces", "transfer",
        (_jpegs(360),), ("full-link",),
        (AUTO, "asyncimport 4", "asyncimport 16", "curl data 16"),
        (Target("rate", AUTO, ">=", 0.98, over="asyncimport 16"),), rounds=3, reference="asyncimport 16",
        notes=("the images are JPEG, which does not deflate",),
    ),
    *_over_links(
        20, 80,
        Target("rate", AUTO_COMPRESS, ">=", 1.5, over="ceiling 16", models=(link_name(20, 150, loses=True),)),
        Target("rate", AUTO_COMPRESS, ">=", 2.0, over="xnatctl 16", models=(link_name(20, 150, loses=True),)),
    ),
    *_over_links(
        100, 1000,
        Target("rate", AUTO_COMPRESS, ">=", 1.5, over="ceiling 16", models=(link_name(100, 30),)),
        Target("times_link", AUTO_COMPRESS, ">=", 0.9, over="asyncimport always", per="ratio",
               models=(link_name(100, 30),)),
    ),
    *_over_links(
        1000, 1500,
        *(Target("rate", AUTO_COMPRESS, ">=", 0.97, over=f"asyncimport {other}", models=(link_name(1000, 2),))
          for other in ("always", "never")),
    ),
    Scenario(
        "distance", "100 ms of real TCP away, between two network namespaces", "transfer",
        (_shape("20 kB x 2,000", Part(2_000, 20_000, 4)),), ("netns",), _PARALLEL,
        tuple(Target("rate", f"asyncimport {n}", ">=", 1.0, over=f"curl data {n}") for n in (4, 16)),
        rounds=3, reference="ceiling 16", quick=("asyncimport 16",),
    ),
    Scenario(
        "compress", "images that deflate by 1.9, with no link before the server", "transfer",
        (_shape("526 kB x 1,000, noisy", Part(1_000, 526_000, 4, noisy=True)),), ("instant",),
        (*_COMPRESS, "ceiling 16"), (Target("rate", AUTO_COMPRESS, ">=", 0.97, over="asyncimport never"),),
        rounds=3, reference="asyncimport never", quick=(AUTO_COMPRESS, "asyncimport always"),
        notes=("never, always and compress: --compress never, always and auto, with -w auto",),
    ),
    Scenario(
        "multiframe", "large multi-frame files", "transfer",
        (_shape("200 MB x 40", Part(40, 200_000_000, 4, sparse=True)),), ("instant",),
        (AUTO, "curl -T 4", "xnatctl 4", "ceiling 4", "ceiling 16"),
        (Target("rate", AUTO, ">=", 0.80, over="ceiling 4"),), rounds=3, reference="ceiling 4", quick_models=(),
        notes=("the files are sparse: reading them costs a copy, and no disk",),
    ),
    Scenario(
        "huge", "one file of 2 GB", "transfer", (_shape("2 GB x 1", Part(1, 2_000_000_000, 1, sparse=True)),),
        ("instant",), (AUTO, "curl -T 4", "ceiling 4"), rounds=3, reference="ceiling 4", quick=(AUTO,),
        quick_models=(),
    ),
    Scenario(
        "mixed", "small and large files together", "transfer",
        (_shape("mixed", Part(4_000, 20_000, 8), Part(1_000, 131_000, 4), Part(400, 526_000, 2),
                Part(8, 50_000_000, 2, sparse=True)),),
        ("instant", "realistic"), _PARALLEL,
        (Target("rate", AUTO, ">=", 0.97, over="ceiling 16", models=("realistic",)),),
        rounds=3, reference="ceiling 16", quick_models=(),
    ),
    Scenario(
        "slow-disk", "each open of a source file takes 5 ms", "transfer",
        (_shape("20 kB x 2,000", Part(2_000, 20_000, 4)),), ("instant",), (AUTO, "asyncimport 16", "ceiling 16"),
        rounds=3, reference="ceiling 16", quick=(AUTO,), disk=Disk(open_seconds=0.005),
        notes=("a file is opened to be looked into, and again to be sent: one at a time that makes 100 files/s",),
    ),
    Scenario(
        "first-archived", "a tree whose directories tell the session: when the first one is archived", "transfer",
        (_shape("20 kB x 20,000 in 100 sessions", Part(20_000, 20_000, 100)),), ("instant",),
        ("asyncimport paths", AUTO),
        (
            Target("first_archived", "asyncimport paths", "<=", 1.0),
            Target("tail", "asyncimport paths", "<=", 0.08),
            Target("first_byte", "asyncimport paths", "<=", 1.0),
        ),
        rounds=3, quick=("asyncimport paths",),
        notes=("first_archived: seconds from the start to the first archived session, its own upload apart",),
    ),
    Scenario(
        "tail", "how the last files end, and how soon the first is on its way", "transfer",
        (_MR,), ("instant", "realistic"), (AUTO,),
        (Target("tail", AUTO, "<=", 0.08), Target("first_byte", AUTO, "<=", 1.0)), rounds=3, quick=(AUTO,),
        quick_models=(),
        notes=("finishing: seconds from the end of the last import to the end of the process",),
    ),
    Scenario(
        "start-up", "asyncimport --help", "start-up", (), (), ("asyncimport",),
        (Target("seconds", "asyncimport", "<=", 0.2),), rounds=15,
    ),
    Scenario(
        "memory", "memory at its peak, as the work grows", "memory",
        (
            _shape("1 kB x 10", Part(10, 1_200, 1)),
            _shape("1 kB x 20,000", Part(20_000, 1_200, 10)),
            _shape("1 kB x 1,000,000", Part(1_000_000, 1_200, 500)),
            _shape("2 GB x 1", Part(1, 2_000_000_000, 1, sparse=True)),
        ),
        ("instant",), (AUTO,),
        (
            Target("rss_mb", "1 kB x 20,000", "<=", 120.0),
            Target("rss_mb", "1 kB x 1,000,000", "<=", 1.1, over="1 kB x 20,000"),
            Target("rss_mb", "2 GB x 1", "<=", 32.0, less="1 kB x 10"),
        ),
        rounds=1,
    ),
    Scenario(
        "memory-zips", "memory at its peak, where all files go as zips", "memory",
        (
            _shape("131 kB x 1,000, noisy", Part(1_000, 131_000, 4, noisy=True)),
            _shape("131 kB x 20,000, noisy", Part(20_000, 131_000, 10, noisy=True)),
        ),
        ("instant",), ("asyncimport always",), (Target("rss_mb", "131 kB x 20,000, noisy", "<=", 120.0),), rounds=1,
    ),
    Scenario(
        "cluster", "four workers of Dask beside one machine, where the server is the limit", "transfer", (_SMALL,),
        ("realistic",), (AUTO, "asyncimport 16", DASK, "asyncimport local 4"),
        (
            Target("rate", DASK, ">=", 0.97, over=AUTO),
            Target("sending", DASK, ">=", 0.97, over=AUTO),
            Target("in_flight", DASK, "<=", 1.5, over="asyncimport 16"),
        ),
        rounds=3, reference=AUTO, quick=(DASK, "asyncimport local 4"),
        notes=("CPU and memory are the driver's: workers are no children of it",),
    ),
    Scenario(
        "cluster-disk", "each machine reads 20 MB/s: four workers beside one machine", "transfer",
        (_shape("262 kB x 20,000", Part(20_000, 262_000, 20, sparse=True)),), ("realistic",), (AUTO, DASK),
        (Target("rate", DASK, ">=", 3.6, over=AUTO),), rounds=1, reference=AUTO, quick_models=(),
        disk=Disk(rate=20e6), options=("--compress", "never"),
        notes=("the files are sparse; what is waited for when one is opened is their size",),
    ),
    Scenario(
        "cluster-driver", "what the driver takes, as the work grows", "memory",
        tuple(_shape(f"1 kB x {n:,}", Part(n, 1_200, n // 500)) for n in (50_000, 100_000, 200_000)), ("instant",),
        (DASK,),
        (
            Target("cpu_s", "1 kB x 200,000", "<=", 5.0, less="1 kB x 100,000"),
            Target("rss_mb", "1 kB x 200,000", "<=", 150.0),
        ),
        rounds=1, quick_models=(), notes=("cpu_s: all of it; the difference of two is for 100,000 files",),
    ),
    Scenario(
        "cluster-resume", "a finished run again, by four workers and by one machine", "again", (_SMALL,),
        ("realistic",), (AUTO, DASK, "asyncimport local 4"),
        (
            Target("opens", DASK, "<=", 0.0),
            Target("running", DASK, "<=", 1.2, over=AUTO),
        ),
        rounds=3, reference=AUTO, quick=(AUTO, DASK),
        notes=("without start: from when the journal is open and all are connected, to the end of the process",),
    ),
    Scenario(
        "scan", "a million small files, looked into and no more", "scan",
        (Shape("1 kB x 1,000,000", (Part(1_000_000, 1_200, 500),), listed=False),), contenders=("asyncimport",),
        targets=(Target("rate", "asyncimport", ">=", 10_000),), rounds=3,
    ),
    Scenario(
        "deep", "the same in deep directories", "scan",
        (Shape("1 kB x 100,000, deep", (Part(100_000, 1_200, 50),), "deep", listed=False),),
        contenders=("asyncimport",), targets=(Target("rate", "asyncimport", ">=", 10_000),), rounds=3,
        quick_models=(),
    ),
    Scenario(
        "flat", "the same in one directory", "scan",
        (Shape("1 kB x 100,000, flat", (Part(100_000, 1_200, 50),), "flat", listed=False),),
        contenders=("asyncimport",), targets=(Target("rate", "asyncimport", ">=", 10_000),), rounds=3,
        quick_models=(),
    ),
    Scenario(
        "resume", "a finished run of a million files, run again", "resume",
        (Shape("1,000,000 empty files", (Part(1_000_000, 0, 1),), listed=False),), contenders=("asyncimport",),
        targets=(Target("rate", "asyncimport", ">=", 100_000), Target("opens", "asyncimport", "<=", 0.0)), rounds=3,
        notes=("the files are empty, and their instances are made up in the journal: a resume looks at size and time",),
    ),
    Scenario(
        "sweep", "-w auto against every fixed N", "sweep", (_SMALL,),
        ("instant", "realistic", "slow-archive", "far", "changing"),
        (*(f"asyncimport {n}" for n in SWEEP), AUTO), rounds=7, reference=AUTO,
        quick=("asyncimport 4", AUTO), quick_models=("changing",),
        notes=("files/s are those of the second half of a phase, that is, 10 s after its beginning at full scale",),
    ),
    *(
        Scenario(
            f"profile-{name}", "what the time of a file is spent with, by samples of the loop's thread", "profile",
            (shape,), ("instant",), ("asyncimport 16", "ceiling 16"), rounds=3, reference="ceiling 16",
            quick=("asyncimport 16", "ceiling 16"), quick_models=("instant",) if name == "small" else (),
            notes=("microseconds a file; the samples take their time too, so compare them with each other only",),
        )
        for name, shape in (("small", _SMALL), ("mr", _MR), ("ct", _CT))
    ),
)  # fmt: skip
SCENARIOS = {scenario.name: scenario for scenario in _TABLE}
