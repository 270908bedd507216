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
"""Three tries for each minute's sample."""


@asynccontextmanager
async def background(feed: Feed, database: Database, *, take_over_s: float) -> AsyncIterator[None]:
    """Runs both for as long as the block does."""
    feed.start()
    sampler = asyncio.create_task(_sample(database, take_over_s), name="sampler")
    sampler.add_done_callback(report_end)
    try:
        yield
    finally:
        sampler.cancel()
        await asyncio.gather(sampler, return_exceptions=True)
        await feed.stop()


def report_end(task: asyncio.Task[None]) -> None:
    """A background task that ends because of a bug must be logged."""
    if not task.cancelled() and (error := task.exception()) is not None:
        LOG.critical("%s ended: it does nothing until the daemon is restarted", task.get_name(), exc_info=error)


async def _sample(database: Database, take_over_s: float) -> None:
    while True:
        try:
            await run_in_threadpool(sample_once, database, take_over_s)
        except DatabaseError as error:  # a gap in the history says it too
            LOG.debug("no sample for the history: %s", error.message)
        await asyncio.sleep(SAMPLE_EVERY_S)


def sample_once(database: Database, take_over_s: float) -> bool:
    """Whether this process wrote the minute's sample."""
    return take_sample(database, read_statistics(database, take_over_s=take_over_s))
