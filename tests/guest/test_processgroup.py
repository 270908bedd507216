"""A program and all that it started end with it, with a cancel, and with this process."""

from __future__ import annotations

import os
import random
import shutil
import signal
import string
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hypersdk.errors import Cancelled, TargetError
from hypersdk.guest.processgroup import MAX_LINE, private_folder, run_in_group
from hypersdk.transfer.cancel import CancelToken
from tests.support.guestprograms import own_processes, script
from tests.support.seeds import SEED
from tests.support.tools import run_tool
from tests.support.waiting import eventually

DAEMONS = """
setsid sh -c 'sleep 600 & exec sleep 600' </dev/null >/dev/null 2>&1 &
(trap '' TERM HUP; setsid sleep 600) &
sleep 600 &
echo started >/dev/fd/"$1"
"""
"""One in a session of its own, one that ignores SIGTERM until it is replaced, one plain."""
NOTHING_LEFT_S = 5
pytestmark = pytest.mark.waits


def run(
    program: Path,
    folder: Path,
    log: Path,
    cancel: CancelToken | None = None,
    on_line: Callable[[bytes], None] = lambda line: None,
    **options: float,
) -> int:
    return run_in_group(
        lambda lines: [str(program), str(lines)],
        folder=folder,
        environment={"PATH": os.environ["PATH"]},
        log=log,
        cancel=cancel or CancelToken(),
        on_line=on_line,
        limit_s=options.get("limit_s"),
        grace_s=options.get("grace_s", 1.0),
    )


def test_lines_output_and_status(tmp_path: Path) -> None:
    program = script(tmp_path / "program", 'echo out; echo error >&2; printf "a\\nb\\nrest" >/dev/fd/"$1"; exit 7')
    lines: list[bytes] = []
    with private_folder() as folder:
        assert run(program, folder, tmp_path / "log", on_line=lines.append) == 7
    assert lines == [b"a", b"b", b"rest"]
    assert (tmp_path / "log").read_text() == "out\nerror\n"


def test_a_program_that_dies_of_a_signal_has_the_status_of_a_shell(tmp_path: Path) -> None:
    with private_folder() as folder:
        assert run(script(tmp_path / "program", "kill -SEGV $$"), folder, tmp_path / "log") == 128 + signal.SIGSEGV


def test_the_program_has_a_private_temporary_folder_that_is_removed(tmp_path: Path) -> None:
    program = script(
        tmp_path / "program",
        'mkdir -p "$TMPDIR/a/b"; : >"$TMPDIR/a/b/c"; ln -s / "$TMPDIR/a/root"; stat -c %a "$TMPDIR" >/dev/fd/"$1"',
    )
    lines: list[bytes] = []
    with private_folder() as folder:
        run(program, folder, tmp_path / "log", on_line=lines.append)
        assert not folder.exists(), "the supervisor removes it, as this process may be dead by then"
    assert lines == [b"700"]


def test_daemons_that_are_left_over_end_with_the_program(tmp_path: Path) -> None:
    with private_folder() as folder:
        assert run(script(tmp_path / "program", DAEMONS), folder, tmp_path / "log") == 0
        assert own_processes(str(folder)) == []


def test_a_cancel_ends_all_of_it(tmp_path: Path) -> None:
    cancel = CancelToken()
    program = script(tmp_path / "program", f"{DAEMONS}\nsleep 600")
    with private_folder() as folder, pytest.raises(Cancelled, match="stopped: enough"):
        run(program, folder, tmp_path / "log", cancel, on_line=lambda line: cancel.cancel("enough"))
    assert own_processes(str(folder)) == []


def test_sigterm_comes_first(tmp_path: Path) -> None:
    cancel = CancelToken()
    program = script(
        tmp_path / "program", 'trap "echo asked; exit 3" TERM; echo x >/dev/fd/"$1"; while :; do sleep 0.05; done'
    )
    with private_folder() as folder, pytest.raises(Cancelled):
        run(program, folder, tmp_path / "log", cancel, on_line=lambda line: cancel.cancel(""), grace_s=60)
    assert "asked\n" in (tmp_path / "log").read_text()


def test_one_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    cancel = CancelToken()
    program = script(tmp_path / "program", 'trap "" TERM; echo x >/dev/fd/"$1"; while :; do sleep 0.05; done')
    with private_folder() as folder, pytest.raises(Cancelled):
        run(program, folder, tmp_path / "log", cancel, on_line=lambda line: cancel.cancel(""), grace_s=0.2)
    assert own_processes(str(folder)) == []


def test_a_time_limit(tmp_path: Path) -> None:
    with private_folder() as folder, pytest.raises(TimeoutError):
        run(script(tmp_path / "program", "sleep 600"), folder, tmp_path / "log", limit_s=0.2)
    assert own_processes(str(folder)) == []


def test_an_error_in_the_reader_ends_it_too(tmp_path: Path) -> None:
    def fail(line: bytes) -> None:
        raise ValueError(line)

    with private_folder() as folder, pytest.raises(ValueError, match="started"):
        run(script(tmp_path / "program", f"{DAEMONS}\nsleep 600"), folder, tmp_path / "log", on_line=fail)
    assert own_processes(str(folder)) == []


def test_a_line_without_end_takes_no_memory(tmp_path: Path) -> None:
    program = script(
        tmp_path / "program", 'head -c 3000000 /dev/zero | tr "\\0" x >/dev/fd/"$1"; printf "\\nshort\\n" >/dev/fd/"$1"'
    )
    lines: list[bytes] = []
    with private_folder() as folder:
        run(program, folder, tmp_path / "log", on_line=lines.append)
    assert lines == [b"short"]
    assert all(len(line) <= MAX_LINE for line in lines)


def test_a_log_that_cannot_be_written_is_an_error_of_the_target(tmp_path: Path) -> None:
    with private_folder() as folder, pytest.raises(TargetError):
        run(script(tmp_path / "program", ":"), folder, tmp_path / "missing" / "log")


def test_when_the_supervisor_is_killed_nothing_is_left_either(tmp_path: Path) -> None:
    with private_folder() as folder:

        def kill(line: bytes) -> None:
            supervisor = [pid for pid in own_processes(str(folder)) if b"supervisor.py" in command_line(pid)]
            for pid in supervisor:
                os.kill(pid, signal.SIGKILL)

        status = run(script(tmp_path / "program", f"{DAEMONS}\nsleep 600"), folder, tmp_path / "log", on_line=kill)
        assert status == 128 + signal.SIGKILL
        assert own_processes(str(folder)) == []


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


PARENT = """
    import sys
    from pathlib import Path
    from hypersdk.guest.processgroup import private_folder, run_in_group
    from hypersdk.transfer.cancel import CancelToken

    program, log, environment = sys.argv[1:4]
    with private_folder() as folder:
        print(folder, flush=True)
        run_in_group(
            lambda lines: [program, str(lines)], folder=folder, environment={"PATH": environment}, log=Path(log),
            cancel=CancelToken(), on_line=lambda line: print(line.decode(), flush=True),
        )
"""


@pytest.mark.kill
@pytest.mark.parametrize("case", range(12))
def test_nothing_lives_after_a_kill_of_this_process(tmp_path: Path, case: int) -> None:
    """``qemu-nbd --fork`` is the daemon that matters: it holds the lock of the image."""
    image = tmp_path / "disk.qcow2"
    run_tool("qemu-img", "create", "-q", "-f", "qcow2", image, "8M")
    chance = random.Random(f"{SEED} {case}")
    program = script(
        tmp_path / "program",
        f'qemu-nbd --fork -t --socket="$TMPDIR/s" --pid-file="$TMPDIR/p" -f qcow2 {image}\n{DAEMONS}\n'
        'while :; do : >"$TMPDIR/f$(date +%N)"; (setsid sleep 600 &); sleep 0.02; done',
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), program, tmp_path / "log", os.environ["PATH"]],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    with parent:
        folder = Path(parent.stdout.readline().strip())
        if chance.random() < 0.7:
            assert parent.stdout.readline() == "started\n"
        time.sleep(chance.random() * 0.3)
        parent.kill()
    killed = time.monotonic()
    eventually(
        lambda: not own_processes(str(folder)) and not folder.exists(), explain=lambda: own_processes(str(folder))
    )
    assert time.monotonic() - killed < 20 * NOTHING_LEFT_S  # a loaded machine decides no test; the grace is 2 s
    run_tool("qemu-img", "info", image)


def test_the_folder_of_libguestfs_sockets_is_removed(tmp_path: Path) -> None:
    """That of the appliance that was started, not of another one."""
    cancel = CancelToken()
    names = ("".join(random.SystemRandom().choices(string.ascii_letters, k=6)) for _ in range(2))
    own, other = (Path(f"/tmp/libguestfs{name}") for name in names)
    for folder in (own, other):
        folder.mkdir()
        (folder / "console.sock").touch()
    program = script(
        tmp_path / "program",
        f'(exec -a "qemu path={own}/console.sock" sleep 600) &\n'
        "until grep -q console.sock /proc/$!/cmdline; do :; done\n"
        'echo x >/dev/fd/"$1"; wait',
    )
    program.write_text(program.read_text().replace("#!/bin/sh", "#!/bin/bash"))
    with private_folder() as private, pytest.raises(Cancelled):
        run(program, private, tmp_path / "log", cancel, on_line=lambda line: cancel.cancel(""))
    assert not own.exists()
    assert other.exists()
    shutil.rmtree(other)


def test_two_at_once_do_not_end_each_other(tmp_path: Path) -> None:
    """Neither holds the other's pipe open, and each looks only for its own processes."""
    cancel = CancelToken()
    first = script(tmp_path / "first", 'echo x >/dev/fd/"$1"; sleep 600')
    second = script(tmp_path / "second", 'read line <"$TMPDIR/go"; exit 5')
    statuses: list[int] = []
    with private_folder() as one, private_folder() as other:
        os.mkfifo(other / "go")
        thread = threading.Thread(target=lambda: statuses.append(run(second, other, tmp_path / "log2")))
        thread.start()
        with pytest.raises(Cancelled):
            run(first, one, tmp_path / "log1", cancel, on_line=lambda line: cancel.cancel(""))
        assert own_processes(str(other)) != []
        (other / "go").write_text("go\n")
        thread.join()
    assert statuses == [5]
