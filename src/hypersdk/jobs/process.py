"""What a worker process does between its start by the supervisor and its end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from types import FrameType

from hypersdk.jobs.enginecopy import copy_before_upgrade, replace_damaged
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.worker import Worker
from hypersdk.state.database import Database


def work(
    settings: DaemonSettings,
    index: int,
    environ: Mapping[str, str],
    *,
    ready: Callable[[], None],
    alive: Callable[[str], None] = lambda _: None,
) -> int:
    """Runs worker ``index`` until SIGTERM or SIGINT; calls ``ready`` once it takes jobs, and ``alive`` often while its
    main loop turns, with the code of what keeps it from its work. Returns the exit status.

    Raises HyperSDKError where it cannot start.
    """
    database = Database.open(settings.url)
    database.outage.tell = True
    try:
        database.upgrade(make=False)
        replace_damaged(settings)
        copy_before_upgrade(settings, database)
        worker = Worker(settings, database, environ)

        def stop(_number: int, _frame: FrameType | None) -> None:
            worker.stop()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # meant for the API's certificate
        worker.run(index, ready=ready, alive=alive)
    finally:
        database.close()
    return 0
