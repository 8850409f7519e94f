"""The pipeline of images, from file to archived session.

scan      walk -> skip what the journal knows -> identify the rest -> route -> admit
feed      claim pending files -> batches
upload    read a batch -> store each file, with retries, under the throttle -> outcomes     (x workers)
          before the first file of a session: what does the archive have of it?
record    write outcomes, as many as have come in
finalize  seal a complete session -> build -> archive -> verify -> close                    (x finalizers)

The journal stands between the stages, so they do not know each other. A stage that has changed something wakes the
stage that may now go on. The stage that writes into a stream closes it. A stage ends when its stream ends, or when the
journal says that nothing will come any more.
"""

import math
from collections.abc import Callable, Coroutine
from functools import partial

import anyio

from asyncimport.errors import primary_error
from asyncimport.journal import Journal
from asyncimport.model.deliveries import Claim
from asyncimport.model.events import Event
from asyncimport.model.options import Options
from asyncimport.model.ports import Destination, Routes, Source
from asyncimport.pacing.load import Load
from asyncimport.pacing.retry import RetryPolicy
from asyncimport.pacing.shutdown import Stop
from asyncimport.pipeline.archive_checks import check_first_file
from asyncimport.pipeline.context import Context, Wakeups, make_signal
from asyncimport.pipeline.feed import feed
from asyncimport.pipeline.finalize import finalize
from asyncimport.pipeline.outputs import Outcomes, UploadOutputs
from asyncimport.pipeline.record import record
from asyncimport.pipeline.scan import Scanner
from asyncimport.pipeline.upload import Uploader

FILE_POLICY = RetryPolicy(attempts=8)
"""How often a file is tried, if nobody says otherwise."""

SendStage = Callable[[Context, Wakeups, UploadOutputs], Coroutine[object, object, None]]
"""Claims files at each wake-up and sends them: feed and upload in one. It closes its streams."""


async def upload_images(
    source: Source,
    destination: Destination,
    journal: Journal,
    routes: Routes,
    *,
    options: Options,
    policy: RetryPolicy | None = None,
    report: Callable[[Event], None] = lambda _: None,
    stop: Stop | None = None,
    load: Load | None = None,
    send: SendStage | None = None,
) -> None:
    """Move everything from source to destination; `load` shows what limits the speed.

    `send` sends the files, by default from here. Raises: FatalError (one, however many stages failed).
    """
    policy, stop, load = policy or FILE_POLICY, stop or Stop(), load or Load()
    context = Context(
        source=source,
        destination=destination,
        journal=journal,
        routes=routes,
        options=options,
        policy=policy,
        report=report,
        stop=stop,
        load=load,
    )
    wake_feed, feed_wakeups = make_signal()
    wake_finalizers, finalizer_wakeups = make_signal(options.max_finalizers)
    flush, flushes = make_signal()
    # A kill loses what is in this stream, and it is sent again. It stays short: a full one ends the recorder's pause.
    outcome_in, outcome_out = anyio.create_memory_object_stream[Outcomes](options.max_workers)
    scanner = Scanner(context)
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(scanner.run, wake_feed.clone(), wake_finalizers.clone())
            outputs = UploadOutputs(outcome_in, flush, wake_feed.clone(), wake_finalizers.clone())
            tasks.start_soon(send or send_here, context, feed_wakeups, outputs)
            tasks.start_soon(record, context, outcome_out, flushes, wake_feed.clone(), wake_finalizers.clone())
            for _ in range(options.max_finalizers):
                tasks.start_soon(finalize, context, finalizer_wakeups.clone(), wake_feed.clone())
            for stream in (wake_feed, wake_finalizers, finalizer_wakeups):
                stream.close()
    except BaseExceptionGroup as errors:
        raise primary_error(errors) from None


async def send_here(context: Context, wakeups: Wakeups, outputs: UploadOutputs) -> None:
    """Send all files from this process."""
    # The feed bounds what waits there.
    batch_in, batch_out = anyio.create_memory_object_stream[list[Claim]](math.inf)
    uploader = Uploader(context, partial(check_first_file, context))
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(feed, context, wakeups, batch_in)
        with batch_out, outputs:
            for _ in range(context.options.max_workers):
                tasks.start_soon(uploader.run, batch_out.clone(), outputs.clone())
