"""Words for shell completion: jobs, files of a job, states, contexts. The daemon has ``ANSWER_S`` to answer, and
without an answer there are no words: a daemon that hangs does not hold up the shell."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import click
from click.shell_completion import CompletionItem

from hypersdk.cli.hyperctl.ctl import Ctl
from hypersdk.errors import HyperSDKError
from hypersdk.text import clean

if TYPE_CHECKING:
    from hypersdk.client import Client, Job

ANSWER_S: Final = 1.5
MAX_JOBS: Final = 200
"""Jobs that are looked at, the newest that match."""
STATES: Final[Mapping[str, Sequence[str]]] = {
    "cancel": ("pending", "running"),
    "pause": ("queued", "running"),
    "resume": ("paused",),
    "retry": ("failed", "cancelled"),
    "delete": ("completed", "failed", "cancelled"),
    "watch": ("pending", "running"),
    "artifacts": ("completed", "failed"),
    "report": ("completed", "failed"),
}
"""States of the jobs that a command is for; all jobs for the other commands."""
T = TypeVar("T")
Items = list[CompletionItem]


def complete_job(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:
    """Names of jobs, and ids of those whose name several jobs have, or that begin with the word."""
    states = STATES.get(ctx.info_name or "", ())
    found = _answer(ctx, lambda client: client.page(states=states, text=incomplete, limit=MAX_JOBS).jobs)
    given = ctx.params.get(param.name or "") or ()
    return [item for item in _jobs(found or (), incomplete) if item.value not in given]


def _jobs(jobs: Sequence[Job], incomplete: str) -> Iterator[CompletionItem]:
    names = Counter(job.name for job in jobs)
    for job in jobs:
        if names[job.name] == 1 and job.name.startswith(incomplete) and not job.name.startswith("-"):
            yield CompletionItem(job.name, help=f"{job.status}, {job.id}")
        elif job.id.startswith(incomplete.lower()):
            yield CompletionItem(job.id, help=f"{job.status}, {clean(job.name, 60)}")


def complete_file(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 - click's
    """Files of the job that was named before."""
    job = str(ctx.params.get("job_id") or "")
    found = _answer(ctx, lambda client: client.artifacts(client.find_id(job)).files) if job else None
    return [CompletionItem(file.name) for file in found or () if file.name.startswith(incomplete)]


def complete_status(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 - click's
    """States, behind the last comma."""
    from hypersdk.jobs.states import STATE_WORDS

    before, comma, word = incomplete.rpartition(",")
    return [CompletionItem(f"{before}{comma}{state}") for state in STATE_WORDS if state.startswith(word)]


def complete_context(ctx: click.Context, param: click.Parameter, incomplete: str) -> Items:  # noqa: ARG001 - click's
    """Saved daemons."""
    from hypersdk.client.contexts import contexts_path, load_contexts

    run = ctx.find_object(Ctl)
    if run is None:
        return []
    try:
        known = load_contexts(contexts_path(run.environ)).known
    except HyperSDKError:  # the command itself tells it
        return []
    return [CompletionItem(name, help=clean(known[name].url, 80)) for name in known if name.startswith(incomplete)]


def _answer(ctx: click.Context, ask: Callable[[Client], T]) -> T | None:
    """What the daemon answers in time; None for none, or an error, which the command itself tells."""
    run = ctx.find_object(Ctl)
    found: list[T] = []

    def work() -> None:
        from hypersdk.client import Client

        assert run is not None
        try:
            with Client(environ=run.environ, **run.given | {"timeout_s": ANSWER_S}) as client:
                found.append(ask(client))
        except HyperSDKError:
            return

    if run is None:
        return None
    thread = threading.Thread(target=work, name="completion", daemon=True)  # left behind if it takes too long
    thread.start()
    thread.join(ANSWER_S)
    return found[0] if found else None
