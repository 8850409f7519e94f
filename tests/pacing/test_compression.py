"""When images go as zips: simulated links and servers, and what ends zips."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf

import pytest

from asyncimport.model.choices import Compress
from asyncimport.pacing.compression import Compression
from asyncimport.pacing.trial import CallTimes, Trial

SIZE = 500_000


@dataclass
class Upload:
    """A simulated upload: `in_flight` calls at a time, over a link that they share, to a server that takes `service` s.

    `link` is in bytes a second, `ratio` how much files deflate, `zip_cost` the seconds that a zip costs more.
    """

    link: float
    service: float = 0.02
    ratio: float = 2.0
    deflate_rate: float = 1e9
    zip_cost: float = 0.005
    in_flight: int = 8
    noise: float = 0.0
    mode: Compress = Compress.AUTO
    series: str = "1"
    blocked_share: float | None = None
    """Which share of their time calls seem to wait for the link; None: as they do."""
    is_told: bool = False
    """Whether the system tells that."""
    now: float = 0.0
    blocked: float = 0.0
    lanes: list[bool] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(4)
        self.compression = Compression(self.mode, deflate_rate=self.deflate_rate, clock=lambda: self.now)

    def send(self, calls: int) -> int:
        """Send files, one round of calls after another; return how many went as zips."""
        before = len(self.lanes)
        while len(self.lanes) < before + calls:
            begun = [self._begin() for _ in range(self.in_flight)]
            sizes = [SIZE / self.ratio if is_zip else SIZE for is_zip in begun]
            sending = sum(sizes) / self.link
            began = self.now
            for is_zip in begun:
                seconds = sending + self.service + is_zip * self.zip_cost
                seconds *= 1 + self.noise * self.random.uniform(-1, 1)
                self.blocked += min(seconds, sending) if self.blocked_share is None else self.blocked_share * seconds
                self.now = max(self.now, began + seconds)
                self.compression.record_success(
                    self.series,
                    seconds,
                    SIZE,
                    is_zip=is_zip,
                    in_flight=self.in_flight,
                    blocked_seconds=self.blocked,
                    link_seconds=self.is_told * self.blocked,
                )
                self.lanes.append(is_zip)
        return sum(self.lanes[before:])

    def _begin(self) -> bool:
        if not self.compression.is_worth_trying(self.series):
            return False
        size = round(SIZE / self.ratio) if self.ratio >= 1 / 0.9 else None
        self.compression.record_size(self.series, SIZE, size)
        return size is not None


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize(("link", "has_zips"), [(125e6, True), (1e9, False)])
def test_no_link_is_limit_enough_that_is_faster_than_deflating(link: float, has_zips: bool, is_told: bool) -> None:
    """A full one of 1 Gbit/s gets zips. At 8 Gbit/s one call would deflate longer than all others send."""
    upload = Upload(link, service=0.0, zip_cost=0.0, is_told=is_told)
    assert (upload.send(4_000) > 0) is has_zips


@pytest.mark.parametrize("is_told", [True, False])
@pytest.mark.parametrize(("link", "has_zips"), [(40e6, True), (125e6, False)])
def test_a_slow_processor_needs_a_slower_link(link: float, has_zips: bool, is_told: bool) -> None:
    """One core and zlib: 320 Mbit/s get zips, 1 Gbit/s none."""
    upload = Upload(link, service=0.0, zip_cost=0.0, deflate_rate=50e6, is_told=is_told)
    assert (upload.send(4_000) > 0) is has_zips


@pytest.mark.parametrize(("size", "has_zips"), [(1_000_000, True), (2_000_000, False)])
def test_large_files_are_deflated_twice(size: int, has_zips: bool) -> None:
    """At 30 MB/s, a processor that deflates 50 has no time for them."""
    now = waited = 0.0
    compression = Compression(Compress.AUTO, deflate_rate=50e6, clock=lambda: now)
    for _ in range(40):
        now += size / 30e6
        waited += 4 * size / 30e6
        compression.record_success(
            "1", 4 * size / 30e6, size, is_zip=False, in_flight=4, blocked_seconds=waited, link_seconds=waited
        )
    assert compression.is_on is has_zips


def test_files_that_end_together_are_no_fast_link() -> None:
    """Four of 100 MB that took 10 s, of eight in flight, end in 0.3 s: that is not the time in which they were sent."""
    now = 0.0
    compression = Compression(Compress.AUTO, clock=lambda: now)
    for moment, waited in ((10.0, 0.0), (10.3, 40.0)):
        now = moment
        for _ in range(4):
            compression.record_success(
                "1", 10.0, 100_000_000, is_zip=False, in_flight=8, blocked_seconds=waited, link_seconds=waited
            )
    assert compression.is_on


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("in_flight", [1, 4, 16, 64])
def test_a_slow_link_gets_zips(in_flight: int, noise: float) -> None:
    """100 Mbit/s: after one trial, and nearly all files from then on."""
    upload = Upload(12_500_000, in_flight=in_flight, noise=noise)
    upload.send(30 + 10 * in_flight)
    assert upload.send(1_000) > 900


@pytest.mark.parametrize("noise", [0.0, 0.3])
@pytest.mark.parametrize("in_flight", [1, 4, 16, 64])
def test_a_fast_link_gets_none(in_flight: int, noise: float) -> None:
    """10 Gbit/s, with nothing to win: not even a trial."""
    upload = Upload(1_250_000_000 * in_flight, in_flight=in_flight, noise=noise)
    assert upload.send(5_000) == 0


@pytest.mark.parametrize("seed", range(20))
def test_what_costs_more_than_it_saves_ends_with_the_trial(seed: int) -> None:
    """Calls wait for the link, and zips keep a server that is the limit busy for as long: trials become rare."""
    upload = Upload(60_000_000, service=0.02, zip_cost=0.04, noise=0.3)
    upload.random.seed(seed)
    assert upload.send(5_000) < 300


def test_what_does_not_deflate_goes_as_it_is() -> None:
    """After some files of a series no other is tried; another series is tried again."""
    upload = Upload(1_000_000, ratio=1.05, mode=Compress.ALWAYS)
    tried: list[bool] = []
    for series in "123":
        upload.series = series
        upload.send(8)
        tried.append(upload.compression.is_worth_trying(series))
    assert tried == [False, False, False]
    assert upload.compression.is_worth_trying("4")
    assert sum(upload.lanes) == 0


def test_a_link_that_becomes_fast_loses_them_and_a_slow_one_gets_them_back() -> None:
    """By the trials that are repeated."""
    upload = Upload(5_000_000)
    upload.send(200)
    assert upload.compression.is_on
    upload.link, upload.zip_cost = 1e10, 0.02
    upload.send(20_000)
    assert not upload.compression.is_on
    assert upload.send(1_000) == 0
    upload.link = 5_000_000
    upload.send(1_000)
    assert upload.compression.is_on


def test_results_near_the_threshold_do_not_alternate() -> None:
    """What saves less than a twelfth does not begin; what saves a little does not end."""
    upload = Upload(5_000_000, zip_cost=0.0)
    upload.send(200)
    assert upload.compression.is_on
    # From now on a zip takes 0.95 of the time.
    upload.link, upload.service, upload.ratio = 40_000_000, 0.9, 2.0
    changes = 0
    for _ in range(200):
        before = upload.compression.is_on or upload.compression.is_comparing
        upload.send(100)
        changes += before is not (upload.compression.is_on or upload.compression.is_comparing)
    assert changes == 0


def test_the_number_of_calls_is_fixed_during_a_trial_only() -> None:
    """And a cancelled trial decides nothing."""
    upload = Upload(5_000_000)
    assert not upload.compression.is_comparing
    while not upload.compression.is_comparing:
        upload.send(8)
    upload.compression.cancel_trial()
    assert not upload.compression.is_comparing
    assert not upload.compression.is_on


def test_a_server_that_slows_down_during_a_trial_decides_nothing() -> None:
    """The last part of the trial is as slow as the middle one."""
    upload = Upload(1e12, service=0.05, blocked_share=1.0)
    while not upload.compression.is_comparing:
        upload.send(8)
    assert not upload.compression._is_on
    # The zips met a server that was ten times as fast, and so did the files after them.
    upload.service = 0.005
    upload.send(400)
    assert not upload.compression.is_on


@pytest.mark.parametrize("zips_before", [True, False])
def test_files_of_other_sizes_change_nothing(zips_before: bool) -> None:
    """Each part of the trial has its own: nothing shows which way is better, however long the calls take."""
    trial, now = Trial(CallTimes(0.0, 0), 0.0, in_flight=1, zips_before=zips_before), 0.0
    results: list[bool | None] = []
    while True not in results and False not in results:
        now += 1.0
        # A part has 16 calls, after the one that was in flight.
        size = 1 << (10 + len(results) // 17)
        is_zip = trial.is_other_way is not zips_before
        results.append(trial.record(1.0, size, now, is_zip=is_zip, foreseen=1.0))
    assert results[-1] is False


def test_zips_that_save_what_was_foreseen_stay_at_once() -> None:
    """No file goes as it is any more, once the first zips have begun."""
    upload = Upload(5_000_000)
    upload.send(400)
    first = upload.lanes.index(True)
    assert first <= 5 * upload.in_flight
    assert all(upload.lanes[first:])


def test_a_change_of_the_server_makes_a_trial_longer() -> None:
    """Before the first zips it was fast: they are compared again with the files after them."""
    upload = Upload(5_000_000, service=0.0)
    while not upload.compression.is_on:
        upload.send(8)
    assert upload.compression.is_comparing
    upload.link = 2_500_000
    upload.send(400)
    first = upload.lanes.index(True)
    assert 0 < upload.lanes[first:].count(False) < 100
    assert upload.compression.is_on
    assert not upload.compression.is_comparing


@pytest.mark.parametrize("is_told", [False, True])
def test_a_trial_without_a_zip_is_over(is_told: bool) -> None:
    """Nothing deflates: the number of calls is fixed for as long as that takes to show."""
    upload = Upload(1_000_000, ratio=1.0, is_told=is_told)
    fixed = 0
    for _ in range(200):
        upload.send(8)
        fixed += upload.compression.is_comparing
    # The ratio that the first trial has shown is that of the next files, until some deflate again.
    assert fixed == 0 if is_told else 0 < fixed < 20
    assert sum(upload.lanes) == 0


def test_while_the_link_is_the_limit_a_trial_is_rare() -> None:
    """One follows a minute after the first zips. Then what the link shows is enough for some minutes."""
    upload = Upload(2_000_000, is_told=True)
    upload.send(100)
    assert upload.compression.is_on
    before, began = len(upload.lanes), upload.now
    while upload.now < began + 90:
        upload.send(100)
    assert 0 < upload.lanes[before:].count(False) < 50
    before, began = len(upload.lanes), upload.now
    while upload.now < began + 250:
        upload.send(100)
    assert all(upload.lanes[before:])
    while upload.now < began + 400:
        upload.send(100)
    assert 0 < upload.lanes[before:].count(False) < 50


def test_a_link_that_is_the_limit_by_far_gets_zips_without_a_trial() -> None:
    """If the system tells so: from the second or third round of calls on."""
    upload = Upload(5_000_000, is_told=True)
    for _ in range(50):
        upload.send(8)
        assert not upload.compression.is_comparing
    first = upload.lanes.index(True)
    assert first <= 2 * upload.in_flight
    assert all(upload.lanes[first:])


def test_zips_without_a_trial_that_do_not_help_end_with_one() -> None:
    """They keep the server busy for longer than the link was, and are not tried at once again."""
    upload = Upload(5_000_000, zip_cost=4.0, is_told=True)
    upload.send(400)
    assert not upload.compression.is_on
    before = len(upload.lanes)
    assert 0 < sum(upload.lanes) < 200
    upload.send(100)
    assert sum(upload.lanes[before:]) < 40


@pytest.mark.parametrize(("link", "zip_cost", "seconds"), [(50_000_000, 0.3, 8), (5_000_000, 0.5, 70)])
def test_zips_that_begin_without_a_trial_and_do_not_pay_end(link: float, zip_cost: float, seconds: float) -> None:
    """At once where the link is the limit no longer, as the processor is; else in a minute, when a trial shows it."""
    upload = Upload(link, zip_cost=zip_cost, is_told=True)
    while not upload.compression.is_on:
        upload.send(8)
    began = upload.now
    while upload.compression.is_on or upload.compression.is_comparing:
        upload.send(8)
    assert upload.now < began + seconds


def test_calls_are_compared_with_one_number_in_flight() -> None:
    """As long as it changes, no trial begins, and if it changes, a trial is over."""
    upload = Upload(5_000_000, in_flight=3)
    upload.send(1)
    for number in range(100):
        upload.in_flight = 8 + number % 2
        upload.send(1)
    assert sum(upload.lanes) == 0
    while not upload.compression.is_comparing:
        upload.send(1)
    upload.in_flight += 1
    upload.send(1)
    assert not upload.compression.is_comparing
    upload.send(100)
    assert upload.compression.is_on


@pytest.mark.parametrize("mode", Compress)
def test_what_was_asked_for(mode: Compress) -> None:
    """Always begins at once, never never does."""
    assert Compression(mode).is_on is (mode is Compress.ALWAYS)
    upload = Upload(1_000_000, mode=mode, in_flight=4)
    zips = upload.send(400)
    assert zips == 400 if mode is Compress.ALWAYS else zips == 0 if mode is Compress.NEVER else 0 < zips < 400


def ends_after(record: Callable[[Compression], bool]) -> int:
    """Return how many of these are the last."""
    compression = Compression(Compress.ALWAYS)
    return next(number for number in range(1, 1_000) if record(compression))


def test_how_many_are_the_last() -> None:
    """Two failures of the server, three refusals and eight losses of what it then stores."""
    assert ends_after(Compression.record_failure) == 2
    assert ends_after(lambda one: one.record_refusal("1", is_stored=True)) == 3
    assert ends_after(lambda one: one.record_loss(inf)) == 8
    assert ends_after(lambda one: one.record_loss(inf, seconds=60.0)) == 8
    assert ends_after(lambda one: one.record_loss(inf, has_stopped_all=True)) == 3


def test_a_gateway_that_never_answers_has_two_zips() -> None:
    """Each takes all the time there is for a reply. A zip that is stored in between forgets it."""
    assert ends_after(lambda one: one.record_loss(inf, seconds=660.0)) == 2
    compression = Compression(Compress.ALWAYS)
    for _ in range(10):
        assert not compression.record_loss(inf, seconds=660.0)
        compression.record_success("1", 0.1, SIZE, is_zip=True, in_flight=1, blocked_seconds=0, link_seconds=0)


def test_what_an_outage_takes_counts_once() -> None:
    """All zips in flight are lost, and were sent before the first of their files was stored again."""
    now = 0.0
    compression = Compression(Compress.ALWAYS, clock=lambda: now)
    for outage in range(1, 9):
        began, now = now, now + 1
        assert [compression.record_loss(began) for _ in range(64)] == [outage == 8] + 63 * [False]


def test_a_stored_zip_forgets_refusals_and_losses_but_no_failure() -> None:
    """Failures count for the whole run."""
    compression = Compression(Compress.ALWAYS)

    def store() -> None:
        compression.record_success("1", 0.1, SIZE, is_zip=True, in_flight=1, blocked_seconds=0, link_seconds=0)

    for _ in range(2):
        assert not compression.record_refusal("1", is_stored=True)
    for _ in range(7):
        assert not compression.record_loss(inf)
    assert not compression.record_failure()
    store()
    assert not compression.record_refusal("1", is_stored=True)
    assert not compression.record_loss(inf)
    assert compression.record_failure()


def test_what_is_not_stored_either_way_gives_up_its_series_only() -> None:
    """A filter may drop the series."""
    compression = Compression(Compress.ALWAYS)
    for _ in range(10):
        assert not compression.record_refusal("1", is_stored=False)
    assert not compression.is_worth_trying("1")
    assert compression.is_worth_trying("2")


def test_an_end_is_told_once_and_only_if_there_were_zips_or_should_be() -> None:
    """And there are none from then on."""
    assert not Compression(Compress.NEVER).end()
    assert not Compression(Compress.AUTO).end()
    assert Compression(Compress.ALWAYS).end()
    compression = Compression(Compress.AUTO)
    compression.record_size("1", SIZE, SIZE // 2)
    assert compression.end()
    assert not compression.end()
    assert not compression.is_worth_trying("1")


def test_few_series_are_remembered() -> None:
    """However many there are."""
    compression = Compression(Compress.ALWAYS)
    for number in range(10_000):
        compression.record_size(str(number), SIZE, None)
    assert len(compression._hopeless) <= 1_000
