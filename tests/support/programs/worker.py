"""A worker in a separate process: ``python -m tests.support.programs.worker CONFIG INDEX [FLAG]...``.

``die-after-enqueue`` kills it between the engine's transaction and ours, at the first attempt that it hands over.
``die-at=N`` kills it at the Nth moment: the return of a call that changes something. ``count=FILE`` writes the number
of moments so far. ``marking`` converts guests by ``guestconversions.MarkingConverter``, ``marking-for-long`` until it
is cancelled, ``marking-until=FILE`` until that file exists. ``damaging`` does so, and
damages the image afterwards. ``die-at-start=before`` kills it when it starts a landed
machine, ``die-at-start=after`` when that is recorded in its folder, and not yet with the job.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from hypersdk.jobs.settings import load_settings
from hypersdk.jobs.worker import run_worker


def main() -> int:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    if "die-after-enqueue" in sys.argv[3:]:
        _die_after_enqueue()
    for flag in sys.argv[3:]:
        name, _, text = flag.partition("=")
        if name in ("die-at", "count"):
            _tell_moments(int(text) if name == "die-at" else None, Path(text) if name == "count" else None)
        elif name == "die-at-start":
            _die_at_start(after=text == "after")
        elif name == "damaging":
            _convert_by_marking(for_long=False, until=None)
            _damage_images()
        elif name.startswith("marking"):
            _convert_by_marking(for_long=name == "marking-for-long", until=Path(text) if text else None)
    return run_worker(load_settings(os.environ, Path(sys.argv[1]), {}), int(sys.argv[2]), os.environ, ready=_ready)


def _ready() -> None:
    sys.stdout.write("ready\n")
    sys.stdout.flush()


def _die_after_enqueue() -> None:
    from dbos import DBOS

    enqueue = DBOS.enqueue_workflow

    def last(*args: Any, **options: Any) -> None:
        enqueue(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    DBOS.enqueue_workflow = last  # type: ignore[method-assign, assignment]


def _tell_moments(last: int | None, file: Path | None) -> None:
    from hypersdk.jobs.claims import Claims
    from hypersdk.landing import land
    from hypersdk.landing.record import LandingFile

    numbers = itertools.count()

    def telling(call: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **named: Any) -> Any:
            result = call(*args, **named)
            number = next(numbers)
            if number == last:
                os.kill(os.getpid(), signal.SIGKILL)
            if file is not None:
                file.write_text(str(number + 1))
            return result

        return called

    owners: tuple[tuple[Any, str], ...] = (
        (Claims, "begin_step"),
        (Claims, "end_step"),
        (Claims, "write_run"),
        (LandingFile, "save"),
        (land, "define_domain"),
        (land, "start_domain"),
    )
    for owner, name in owners:
        setattr(owner, name, telling(getattr(owner, name)))


def _die_at_start(*, after: bool) -> None:
    from hypersdk.jobs.claims import Claims
    from hypersdk.landing import land

    end_step = Claims.end_step

    def last(claims: Claims, claim: Any, step: Any, result: Any) -> None:
        if step.name == "start":
            os.kill(os.getpid(), signal.SIGKILL)
        end_step(claims, claim, step, result)

    if after:
        Claims.end_step = last  # type: ignore[method-assign, assignment]
    else:
        setattr(land, "start_domain", lambda *_args, **_named: os.kill(os.getpid(), signal.SIGKILL))  # noqa: B010


def _damage_images() -> None:
    from hypersdk.landing import steps

    convert = steps.convert_guest  # type: ignore[attr-defined]

    def damaging(landing: Any, *args: Any, **named: Any) -> Any:
        drivers = convert(landing, *args, **named)
        (image,) = landing.folder.path.glob("*.qcow2")
        with image.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            last = file.read(1)[0]
            file.seek(-1, os.SEEK_END)
            file.write(bytes([last ^ 1]))
        return drivers

    steps.convert_guest = damaging  # type: ignore[attr-defined]


def _convert_by_marking(*, for_long: bool, until: Path | None) -> None:
    from hypersdk.landing import convert, steps
    from tests.support.guestconversions import MarkingConverter
    from tests.support.waiting import eventually

    converter = MarkingConverter(
        then=lambda: eventually(lambda: until is None or until.exists()),
        until_cancelled=(lambda _: None) if for_long else None,
    )
    setattr(convert, "check_images", lambda *_: ())  # noqa: B010 - a boot sector has no partition table
    steps.convert_guest = partial(steps.convert_guest, convert=converter)  # type: ignore[attr-defined]


if __name__ == "__main__":
    sys.exit(main())
