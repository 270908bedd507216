"""Background tasks of an API process: the event stream's feed, and a sample of the statistics every minute."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.concurrency import run_in_threadpool

from hypersdk.api.feed import Feed
from hypersdk.jobs.statistics import read_statistics, take_sample
from hypersdk.state.database import Database, DatabaseError

LOG: Final = logging.getLogger(__name__)
SAMPLE_EVERY_S: Final = 20.0
"""Three attempts for each minute's sample."""


@asynccontextmanager
async def background(feed: Feed, database: Database, *, take_over_s: float) -> AsyncIterator[None]:
    """Runs both tasks until the block ends."""
    tasks = [
        asyncio.create_task(feed.run(), name="the event stream"),
        asyncio.create_task(_sample(database, take_over_s), name="the sampler"),
    ]
    for task in tasks:
        task.add_done_callback(_report_failure)
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _report_failure(task: asyncio.Task[None]) -> None:
    """Logs a task that ended because of a bug."""
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.critical("%s ended; it is not available until the daemon is restarted", task.get_name(), exc_info=error)


async def _sample(database: Database, take_over_s: float) -> None:
    while True:
        try:
            statistics = await run_in_threadpool(read_statistics, database, take_over_s=take_over_s)
            await run_in_threadpool(take_sample, database, statistics)
        except DatabaseError as error:  # the gap shows in the history
            LOG.debug("no sample for the history: %s", error.message)
        await asyncio.sleep(SAMPLE_EVERY_S)
