"""A process that holds a folder for a job which another one has by now."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hypersdk.errors import TargetError
from hypersdk.migration.runfile import held_folder
from hypersdk.migration.staleholder import end_stale_holder
from hypersdk.transfer.cancel import CancelToken

HOLD = """
import sys
from pathlib import Path
from hypersdk.migration.runfile import held_folder
with held_folder(Path(sys.argv[1]), job=sys.argv[2]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, job: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-c", HOLD, str(folder), job]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def test_a_stopped_one_is_ended_and_its_folder_is_free(tmp_path: Path) -> None:
    with holder(tmp_path, "7") as process:
        process.send_signal(signal.SIGSTOP)
        assert end_stale_holder(tmp_path, "job 7", lambda: None) == process.pid
        with held_folder(tmp_path):
            pass
        assert process.wait() == -signal.SIGKILL
    assert end_stale_holder(tmp_path, "job 7", lambda: None) is None


def test_what_holds_it_for_something_else_lives(tmp_path: Path) -> None:
    with holder(tmp_path, "8") as process:
        assert end_stale_holder(tmp_path, "job 7", lambda: None) is None
        assert process.poll() is None
    with held_folder(tmp_path, job="7"):
        assert end_stale_holder(tmp_path, "job 7", lambda: None) is None, "this process"


def test_one_that_was_taken_over_does_not_end_its_successor(tmp_path: Path) -> None:
    with holder(tmp_path, "7") as process:
        token = CancelToken()
        token.cancel("another worker has the job")
        with pytest.raises(Exception, match="another worker"):
            end_stale_holder(tmp_path, "job 7", token.check)
        assert process.poll() is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_lock_of_another_user_is_not_believed(tmp_path: Path) -> None:
    with holder(tmp_path, "7") as process:
        os.chown(tmp_path / ".hypersdk-run.lock", 65534, 65534)
        assert end_stale_holder(tmp_path, "job 7", lambda: None) is None
        assert process.poll() is None


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / ".hypersdk-run.lock").symlink_to("/etc/passwd")
    with pytest.raises(TargetError):
        end_stale_holder(tmp_path, "job 7", lambda: None)
