"""A newcomer's walk through the README: its commands are run as written, in order, in one shell in a fresh clone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.cli.hypervisord import free_port

ROOT: Final = Path(__file__).parents[1]
LIMIT_S: Final = 840
"""Of all commands; a machine that does nothing else needs about a minute."""
NOT_RUN: Final = {
    "./scripts/test": "it runs this suite",
    "pip install '.[kvm]'": "it needs libvirt's headers, and a hypervisor",
    "vCenter / ESXi                      this machine": "a picture",
}
"""By the first line of a block."""
WAIT: Final = """\
until_it_answers() {  # as a reader waits for the address to be shown
  for _ in $(seq 600); do
    (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
    kill -0 $! && sleep 0.2
  done
  return 1
}
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Commands, and for a console what they are shown to print."""

    commands: tuple[str, ...]
    shown: tuple[str, ...] = ()


def blocks_of(text: str) -> Iterator[list[str]]:
    """Lines of every fenced or indented block, the fence's first line before those of a fenced one."""
    pattern = r"^```(\w*)\n([\s\S]*?)^```$|(?<=\n\n)((?: {4}.+\n)+)"
    for found in re.finditer(pattern, text, re.MULTILINE):
        yield [found[1] or "", *(found[2] or found[3]).splitlines()]


def parsed(kind: str, lines: list[str]) -> Block:
    """What to run of one block."""
    if kind != "console":
        return Block(tuple(line.strip() for line in lines))
    commands = tuple(line[2:] for line in lines if line.startswith("$ "))
    return Block(commands, tuple(line for line in lines if line and not line.startswith("$ ")))


def runnable(text: str) -> list[Block]:
    """The blocks to run; the others are exactly those of ``NOT_RUN``."""
    found = [(kind, lines) for kind, *lines in blocks_of(text)]
    left_out = [lines[0].strip() for _, lines in found if lines[0].strip() in NOT_RUN]
    assert left_out == list(NOT_RUN)
    return [parsed(kind, lines) for kind, lines in found if lines[0].strip() not in NOT_RUN]


def clone_of_the_tree(folder: Path) -> None:
    """A clone, with the changes that are not committed yet."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder], check=True)
    changed = subprocess.run(
        ["git", "ls-files", "-z", "--modified", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    )  # fmt: skip
    for name in filter(None, changed.stdout.split("\0")):
        if (ROOT / name).exists():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((ROOT / name).read_bytes())


def newcomer(home: Path) -> dict[str, str]:
    """The environment of somebody who has this machine's pip and nothing of HyperSDK."""
    real = Path.home()
    kept = {
        name: value for name, value in os.environ.items() if not re.match(r"PYTHON|VIRTUAL|GOVC|HYPER|XDG|LC_", name)
    }
    path = [part for part in kept["PATH"].split(":") if Path(part) != Path(sys.executable).parent]
    config = real / ".config/pip/pip.conf"
    return {
        "PIP_CACHE_DIR": str(real / ".cache/pip"),
        **({"PIP_CONFIG_FILE": str(config)} if config.exists() else {}),
        **kept,
        "PATH": ":".join(path),
        "HOME": str(home),
        "TMPDIR": str(home),
        "LANG": "C.UTF-8",
    }


def script_of(blocks: list[Block]) -> str:
    """One shell for all of them, as a reader has."""
    lines = ["set -e", "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT", WAIT]
    for number, block in enumerate(blocks):
        lines += [f'echo "::{number}"', *block.commands]
        if block.commands[-1].endswith("&"):
            lines.append(f"until_it_answers $PORT_OF_{number}")
    return "\n".join([*lines, 'echo "::end"', ""])


def replaced(text: str, words: Mapping[str, str]) -> str:
    """``text`` with other ports and another folder than /tmp: those may be in use."""
    for old, new in words.items():
        text = text.replace(old, new)
    return text


def plain(line: str) -> str:
    """A line without what differs from run to run: frames, widths, sizes, times, digests, ids."""
    text = re.sub(r"[│╭╮╰╯─]", " ", line.partition("…")[0])
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}", "ID", text)
    text = re.sub(r"\d[\d.,]* ?(?:[KMGT]?i?B\b|min\b|ms\b|s\b|h\b)", "AMOUNT", text)
    return " ".join(text.split())


def is_live(line: str) -> bool:
    """Whether the line is of the display that redraws itself, which only a terminal gets."""
    return "░" in line or line.lstrip().startswith("% of ")


@pytest.mark.slow
@pytest.mark.timeout(LIMIT_S + 60)
def test_a_newcomer_can_type_everything_that_the_readme_shows(tmp_path: Path) -> None:
    clone, home = tmp_path / "clone", tmp_path / "home"
    home.mkdir()
    clone_of_the_tree(clone)
    ports = {"8080": str(free_port()), "8989": str(free_port())}
    words = {"localhost:8080": f"localhost:{ports['8080']}", "127.0.0.1:8989": f"127.0.0.1:{ports['8989']}",
             "hypersdk.simulator": f"hypersdk.simulator --listen 127.0.0.1:{ports['8989']}",
             "/tmp/": f"{tmp_path}/"}  # fmt: skip
    job = clone / "docs/example-job.yaml"
    job.write_text(replaced(job.read_text(), words))
    blocks = runnable(replaced((clone / "README.md").read_text(), words))
    starting = {
        f"PORT_OF_{number}": ports["8989" if "simulator" in block.commands[-1] else "8080"]
        for number, block in enumerate(blocks)
        if block.commands[-1].endswith("&")
    }
    assert sorted(starting.values()) == sorted(ports.values()), "both are started by the README itself"
    env = {**newcomer(home), **starting, "HYPERVISORD_URL": f"http://localhost:{ports['8080']}"}
    with subprocess.Popen(
        ["bash", "-c", script_of(blocks)],
        cwd=clone, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    ) as shell:  # fmt: skip
        try:
            out, _ = shell.communicate(timeout=LIMIT_S)
        finally:
            if shell.poll() is None:
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, out
    assert out.rstrip().endswith("::end"), out
    assert (removed := re.search(r"^To remove them: rm -r (\S+)$", out, re.MULTILINE)), out
    assert (Path(removed[1]) / "artifact-manifest.json").exists()
    printed = {plain(line) for line in out.splitlines()}
    for block in blocks:
        for line in filter(lambda line: not is_live(line), block.shown):
            assert any(found.startswith(plain(line)) for found in printed), (line, out)
    status = subprocess.run(["git", "status", "--porcelain"], cwd=clone, capture_output=True, text=True, check=True)
    touched = {line[3:] for line in status.stdout.splitlines()}
    assert "docs/example-job.yaml" in touched
    assert not [name for name in touched if "venv" in name or not (ROOT / name).exists()], status.stdout
