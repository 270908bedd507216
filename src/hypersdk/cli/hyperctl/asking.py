"""What cancel, pause, resume, retry and delete have in common: ids as arguments or with -id, and a line with the
count."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from hypersdk.cli.hyperctl.app import common_flags
from hypersdk.cli.hyperctl.ctl import Ctl, for_each, raise_failures
from hypersdk.cli.programs.groups import F, flag
from hypersdk.errors import UsageError

if TYPE_CHECKING:
    from hypersdk.client import Job


def ids_given(command: F) -> F:
    """Ids as arguments, and the older ``-id ID``."""
    command = common_flags(command)
    command = flag(
        "--id", "named", multiple=True, metavar="ID", help="The same as an argument; may be given more than once."
    )(command)
    return click.argument("ids", nargs=-1, metavar="ID...")(command)


def ask(
    ctl: Ctl, ids: tuple[str, ...], named: tuple[str, ...], act: Callable[[str], Job | None], done_word: str
) -> list[Job]:
    """Acts on each job. Prints ``Cancelled N job(s)`` and the like; raises the errors of those that failed."""
    wanted = list(dict.fromkeys([*ids, *named]))
    if not wanted:
        raise UsageError("no job was named", next_step="Give its id; `hyperctl query -all` lists them.")
    answers: dict[str, Any] = {}

    def one(job_id: str) -> str:
        answers[job_id] = act(job_id)
        return job_id

    done, failed = for_each(ctl, wanted, one)
    facts = [_facts(job_id, answers[job_id], done_word) for job_id in done]
    ctl.show(facts, lambda: ctl.say(f"{done_word} {len(done)} job(s)", "bold green" if done else "bold"))
    raise_failures(done, failed, done_word.lower())
    return [answers[job_id] for job_id in done if answers[job_id] is not None]


def _facts(job_id: str, job: Job | None, done_word: str) -> dict[str, Any]:
    return {"id": job_id, "done": done_word.lower()} if job is None else dict(job.raw)
