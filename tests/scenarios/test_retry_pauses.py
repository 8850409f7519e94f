"""How long the pauses between attempts are, who waits, and how many retries a server in trouble gets."""

import random
import sys
from pathlib import Path

import aiohttp
import anyio
import pytest
from aiohttp import web
from builders import image, listening, logged_in, no_sleep, sop, upload, write
from fault_table import ALONE
from yarl import URL

from asyncimport.errors import (
    TransientError,
)
from asyncimport.model.events import Event, RetryScheduled
from asyncimport.model.options import Options
from asyncimport.pacing.outage import RetryBudget
from asyncimport.pacing.retry import RetryPolicy, call_with_retries
from asyncimport.pacing.shutdown import Stop
from asyncimport.testserver import (
    Fault,
    Status,
    Tell,
    TestXnat,
)
from asyncimport.xnat.client import Client
from asyncimport.xnat.replies.site import parse_project_id

pytestmark = [pytest.mark.anyio, pytest.mark.thorough]


class Sleeper(Stop):
    """Notes the pauses between attempts, and does not sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[float] = []

    async def sleep(self, seconds: float) -> None:
        """Note the pause."""
        self.asked.append(seconds)
        await no_sleep(seconds)


async def ask(client: Client) -> str | None:
    """Make one call."""
    return await client.call("GET", client.url("/data/projects/demo?format=json"), parse_project_id)


@pytest.mark.parametrize("seed", [1, 2])
async def test_pauses_have_full_jitter(xnat: TestXnat, url: str, seed: int) -> None:
    """A pause is between 0 and the span of the attempt, which doubles up to the maximum."""
    sys.stdout.write(f"seed {seed}\n")
    policy = RetryPolicy(attempts=6, first_seconds=1.0, factor=2.0, max_seconds=8.0)
    sleeper = Sleeper()
    luck = random.Random(seed)
    async with logged_in(url) as client:
        fault = xnat.faults.add(Fault("listing", Status(503), times=40 * policy.attempts))
        for _ in range(40):
            with pytest.raises(TransientError):
                await call_with_retries(lambda: ask(client), policy, sleep=sleeper.sleep, jitter=luck.random)
    assert fault.hits == 40 * policy.attempts
    assert len(sleeper.asked) == 40 * (policy.attempts - 1)
    for attempt, span in enumerate((1.0, 2.0, 4.0, 8.0, 8.0)):
        pauses = sorted(sleeper.asked[attempt :: policy.attempts - 1])
        assert 0 <= pauses[0] < span / 5
        assert span * 4 / 5 < pauses[-1] < span
        assert span / 4 < pauses[20] < span * 3 / 4
    again = random.Random(seed)
    assert sleeper.asked[:3] == [again.random() * span for span in (1.0, 2.0, 4.0)]


async def test_a_retry_after_holds_all_workers_back(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """After a Retry-After in one answer, no further file is sent until it is over."""
    for number in range(1, 31):
        write(tmp_path / "tree" / f"{number:02}", image(number))
    told: list[float] = []
    came: list[float] = []

    def report(event: Event) -> None:
        if isinstance(event, RetryScheduled):
            told.append(anyio.current_time())

    fault = xnat.faults.add(Fault("import", Status(429, headers={"Retry-After": "1"}), nth=6))
    xnat.faults.add(Fault("import", Tell(lambda: came.append(anyio.current_time())), share=1.0))
    await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", report=report)
    assert (fault.hits, len(told), len(came)) == (1, 1, 30)
    early = [moment for moment in came if moment < told[0]]
    held = [moment for moment in came if moment >= told[0] + 1]
    assert len(early) >= 5
    # Two of four workers remain; what three of them had sent before they could know is on its way.
    assert len(came) - len(early) - len(held) <= 3
    assert len(held) >= 30 - 5 - 2 * 3
    assert xnat.sop_uids() == {sop(number) for number in range(1, 31)}


async def test_a_file_that_always_fails_has_no_more_than_its_attempts(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """A proxy always fails at one file: this file fails, and all others arrive."""
    policy = RetryPolicy(attempts=7, first_seconds=0)
    for number in range(1, 61):
        write(tmp_path / "tree" / f"{number:02}", image(number, PatientID="S", StudyInstanceUID="1.2"))
    write(tmp_path / "tree" / "00", image(99, PatientID="H", StudyInstanceUID="1.9"))
    hopeless = 0
    passed = anyio.Condition()
    through = 0

    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False) as http:

        async def answer(request: web.BaseRequest) -> web.StreamResponse:
            nonlocal hopeless, through
            body = await request.read()
            if sop(99).encode() in body:
                hopeless += 1
                async with passed:
                    # Two more have got through, so that the run has heard of one.
                    before = through
                    while through < before + 2:
                        await passed.wait()
                return web.Response(status=500)
            target = URL(f"{url}{request.raw_path}", encoded=True)
            async with http.request(request.method, target, data=body, headers=request.headers) as response:
                if body:
                    async with passed:
                        through += 1
                        passed.notify_all()
                headers = {name: response.headers[name] for name in ("Content-Type",) if name in response.headers}
                reply = web.Response(status=response.status, body=await response.read(), headers=headers)
                for cookie in response.headers.getall("Set-Cookie", []):
                    reply.headers.add("Set-Cookie", cookie)
                return reply

        async with listening(answer) as proxy:
            summary = await upload(
                proxy,
                [tmp_path / "tree"],
                tmp_path / "journal.db",
                policy=policy,
                options=Options(workers=2, finalizers=1),
            )
    assert hopeless == policy.attempts
    assert xnat.count["import"] == 60
    assert (summary.files.failed, summary.files.stored) == (1, 60)
    assert summary.problems[0].reason.endswith(", 7 times")
    assert xnat.sop_uids() == {sop(number) for number in range(1, 61)}
    assert sorted(report.state for report in summary.sessions) == ["archived", "held"]


def test_a_budget_is_a_hundred_retries_and_a_fifth_of_successes() -> None:
    """Successes refill it, up to its first value."""
    budget = RetryBudget()

    def spare(asked: int) -> int:
        return sum(budget.acquire() for _ in range(asked))

    assert spare(1000) == 100
    for successes, spared in ((4, 0), (1, 1), (51, 10), (10_000, 100)):
        for _ in range(successes):
            budget.record_success()
        assert spare(1000) == spared


async def test_a_server_that_fails_everything_gets_few_quick_retries(xnat: TestXnat, url: str) -> None:
    """Beyond the budget each pause is long; each success gives a fifth of a retry back."""
    policy = RetryPolicy(attempts=5, first_seconds=1.0, factor=2.0, max_seconds=1000.0)
    budget, sleeper = RetryBudget(), Sleeper()

    async def fail(calls: int) -> list[float]:
        sleeper.asked.clear()
        for _ in range(calls):
            with pytest.raises(TransientError):
                await call_with_retries(
                    lambda: ask(client), policy, acquire=budget.acquire, sleep=sleeper.sleep, jitter=lambda: 0.5
                )
        return list(sleeper.asked)

    async with logged_in(url) as client:
        fault = xnat.faults.add(Fault("listing", Status(503), times=60 * 5))
        before = xnat.count["listing"]
        pauses = await fail(60)
        assert (fault.hits, xnat.count["listing"] - before) == (300, 300)
        assert pauses == [0.5, 1.0, 2.0, 4.0] * 25 + [64.0] * (35 * 4)
        for _ in range(40):
            await call_with_retries(lambda: ask(client), policy, acquire=budget.acquire, sleep=sleeper.sleep)
            budget.record_success()
        xnat.faults.add(Fault("listing", Status(503), times=5 * 5))
        assert await fail(5) == [0.5, 1.0, 2.0, 4.0] * 2 + [64.0] * (3 * 4)


async def test_a_run_keeps_to_its_budget(xnat: TestXnat, url: str, tmp_path: Path) -> None:
    """Each file fails once: about the first hundred are retried soon, and one in five of the others."""
    files, seed = 170, 3
    sys.stdout.write(f"seed {seed}\n")
    random.seed(seed)
    for number in range(1, files + 1):
        write(tmp_path / "tree" / f"{number:03}", image(number))
    faults = [xnat.faults.add(Fault("import", Status(500), nth=2 * number + 1)) for number in range(files)]
    stop = Sleeper()
    policy = RetryPolicy(attempts=3, first_seconds=1.0, factor=2.0, max_seconds=1000.0)
    await upload(url, [tmp_path / "tree"], tmp_path / "journal.db", policy=policy, options=ALONE, stop=stop)
    assert sum(fault.hits for fault in faults) == len(stop.asked) == files
    assert xnat.count["import"] == 2 * files
    assert xnat.sop_uids() == {sop(number) for number in range(1, files + 1)}
    # A hundred to begin with, and a fifth of the success of each: used up after a hundred and twenty-five.
    assert max(stop.asked[:124]) < 1
    late = stop.asked[125:]
    quick = sum(pause < 1 for pause in late)
    # One in five has a repetition to spare; of the others, one in 128 draws a pause as short as that.
    assert len(late) // 5 <= quick <= len(late) // 5 + 3
    assert 32 < max(late) < 128
