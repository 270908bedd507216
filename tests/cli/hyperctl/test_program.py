"""The program as a whole: help, errors, completion, pages."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import date
from pathlib import Path

import click
import pytest

from hypersdk.cli.hyperctl import app as hyperctl
from hypersdk.cli.hyperctl.man import MANUAL as HYPERCTL
from hypersdk.cli.hypervisord import app as hypervisord
from hypersdk.cli.hypervisord.man import MANUAL as HYPERVISORD
from hypersdk.cli.programs import completion
from hypersdk.cli.programs.groups import Flag, Group
from hypersdk.cli.programs.pages import Manual, all_pages
from hypersdk.cli.programs.program import Program
from hypersdk.client.errors import _BY_EXIT
from hypersdk.errors import TransientError
from tests.support.cli.hyperctl import Hyperctl

PROGRAMS = [hyperctl.program, hypervisord.program]
HEAVY = ("rich", "httpx", "ssl", "sqlalchemy", "fastapi", "dbos", "pydantic", "yaml", "cryptography", "pyVmomi")


def commands(program: Program) -> list[tuple[click.Context, click.Command]]:
    """All commands, those of groups included."""
    found: list[tuple[click.Context, click.Command]] = []
    top = click.Context(program.root, info_name=program.name, **program.root.context_settings)
    waiting = [top]
    while waiting:
        ctx = waiting.pop()
        found.append((ctx, ctx.command))
        if isinstance(ctx.command, Group):
            for name in ctx.command.list_commands(ctx):
                command = ctx.command.get_command(ctx, name)
                assert command is not None
                waiting.append(click.Context(command, info_name=name, parent=ctx))
    return found


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
def test_every_command_and_flag_has_help(program: Program) -> None:
    for ctx, command in commands(program):
        assert command.help, ctx.command_path
        for param in command.params:
            if isinstance(param, click.Option) and not param.hidden:
                assert param.help, f"{ctx.command_path} {param.name}"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
def test_every_long_flag_is_understood_with_one_dash(program: Program) -> None:
    for ctx, command in commands(program):
        parser = command.make_parser(ctx)
        for param in command.params:
            if isinstance(param, Flag):
                for name in param.opts:
                    if name.startswith("--"):
                        assert name[1:] in parser._long_opt, f"{ctx.command_path} {name}"


@pytest.mark.parametrize("name", ["hyperctl", "hypervisord"])
def test_help_imports_nothing_heavy(name: str, tmp_path: Path) -> None:
    code = f"import sys; from hypersdk.cli.{name}.main import run; run(); print(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"],
        capture_output=True,
        text=True,
        env={"HOME": str(tmp_path), "PATH": ""},
        check=True,
    )
    assert set(done.stderr.split()).isdisjoint(HEAVY)
    assert done.stdout.startswith(f"Usage: {name}")


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda one: one.name)
@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_printed_for_each_shell(
    program: Program, shell: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert program.main(["completion", shell], sys.stdout, sys.stderr, sys.stdin, {"HOME": str(tmp_path)}) == 0
    assert program.completion_variable in capsys.readouterr().out
    assert (
        program.main(["completion", shell, "--install"], sys.stdout, sys.stderr, sys.stdin, {"HOME": str(tmp_path)})
        == 0
    )
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(installed) == 1
    assert program.name in installed[0].name


@pytest.mark.parametrize("there", [True, False])
def test_what_reads_the_completion_of_bash_is_told_where_it_is_missing(
    there: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "bash_completion"
    if there:
        package.touch()
    monkeypatch.setattr(completion, "_BASH_COMPLETION", package)
    environ = {"HOME": str(tmp_path), "SHELL": "/bin/bash"}
    program = PROGRAMS[0]
    assert program.main(["completion", "--install"], sys.stdout, sys.stderr, sys.stdin, environ) == 0
    told = capsys.readouterr().err
    assert ("The package bash-completion is missing" in told) is not there
    assert ("in ~/.bashrc instead" in told) is not there


def test_completion_knows_commands_and_flags(tmp_path: Path) -> None:
    env = {
        "HOME": str(tmp_path),
        "_HYPERCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": "hyperctl endpoints ",
        "COMP_CWORD": "2",
        "PATH": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", "hypersdk.cli.hyperctl.main"], capture_output=True, text=True, env=env, check=False
    )
    assert "plain,add" in done.stdout


@pytest.mark.parametrize("manual", [HYPERCTL, HYPERVISORD], ids=lambda one: one.name)
def test_the_pages_are_valid_and_complete(manual: Manual, tmp_path: Path) -> None:
    pages = all_pages(manual, date(2026, 1, 31))
    assert set(pages) == {f"{manual.name}.{manual.section}"} | {
        f"{manual.name}-{name}.{manual.section}" for name in manual.root.entries
    }
    for name, text in pages.items():
        file = tmp_path / name
        file.write_text(text, encoding="utf-8")
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", file],
            capture_output=True,
            text=True,
            check=True,
            env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8", "MANPAGER": "cat"},
        )
        assert done.stderr == "", name
        assert "EXIT STATUS" in done.stdout


def test_every_exit_status_of_an_answer_is_in_both_tables() -> None:
    families = {str(TransientError.exit_status), *(str(one) for one in _BY_EXIT)}
    docs = (Path(__file__).parents[3] / "docs" / "hyperctl.md").read_text(encoding="utf-8")
    assert families <= set(dict(HYPERCTL.exit_status))
    assert families <= set(re.findall(r"^\| (\d+) \|", docs, re.MULTILINE))


def test_errors_say_what_to_do(tmp_path: Path) -> None:
    ctl = Hyperctl("http://127.0.0.1:1", tmp_path, None)
    gone = ctl("status")
    assert gone.status == 3
    assert "daemon_unreachable" in gone.err
    assert "hypervisord" in gone.err
    assert ctl("status", "-json").error["code"] == "daemon_unreachable"
    assert ctl("status", "--output", "json").error["exit_status"] == 3
    assert "`hyperctl query`" in ctl("qery").err
    assert "`hyperctl tokens create`" in ctl("tokens", "creat").err
    assert ctl("query", "-alll").status == 2
    assert ctl("status", env={"HYPERVISORD_URL": "http://192.0.2.1:8080", "HYPERVISORD_TOKEN": "hst_x"}).status == 4
