"""The program as a whole: help, start-up, unknown words."""

from __future__ import annotations

import subprocess
from pathlib import Path

import click
import pytest

from hypersdk import __version__
from hypersdk.cli.app import COMMANDS, SECTIONS, root
from tests.support.cli.commandline import environment, program, run

HEAVY = {
    *("rich", "textual", "pydantic", "lxml", "pyVmomi", "yaml", "asyncio", "http.client", "ssl", "httpx"),
    "sqlalchemy",
}


def test_help_shows_every_command_with_its_summary() -> None:
    result = run("--help")
    assert result.status == 0
    assert result.err == ""
    for section, entries in SECTIONS.items():
        assert f"{section}:" in result.out
        for name, entry in entries.items():
            assert f"  {name} " in result.out
            assert entry.summary in result.out


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_module_and_help(name: str) -> None:
    command = root.get_command(click.Context(root, **root.context_settings), name)
    assert command is not None
    assert command.name == name
    result = run(name, "--help")
    assert result.status == 0
    assert result.out.startswith(f"Usage: hyper2kvm {name}")


def test_options_without_help_do_not_exist() -> None:
    ctx = click.Context(root, **root.context_settings)
    for name in COMMANDS:
        command = root.get_command(ctx, name)
        assert command is not None
        silent = [p.name for p in command.params if isinstance(p, click.Option) and not p.help]
        assert silent == [], name


def test_help_imports_nothing_heavy(tmp_path: Path) -> None:
    code = "import sys; from hypersdk.cli.main import run; run(); print(' '.join(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [program()[0], "-c", code, "--help"], capture_output=True, text=True, env=environment(tmp_path), check=True
    )
    loaded = set(done.stderr.split())
    assert "hypersdk.cli.app" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("module", ["hypersdk.cli", "hypersdk.cli.hyperctl", "hypersdk.cli.hypervisord"])
def test_the_short_help_flag_works_without_a_command_too(module: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [program()[0], "-c", f"from {module}.main import run; raise SystemExit(run())", "-h"],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "-h, --help" in done.stdout


@pytest.mark.parametrize("module", ["hypersdk.cli.app", "hypersdk.cli.hyperctl.app", "hypersdk.cli.hypervisord.app"])
def test_the_help_of_a_command_imports_nothing_heavy(module: str, tmp_path: Path) -> None:
    """Nor does completion. Modules with commands import what only a run needs in their functions."""
    code = f"""if True:
        import sys
        import click
        from {module} import root

        def load(group):
            for name in group.list_commands(click.Context(group, **root.context_settings)):
                command = group.get_command(click.Context(group, **root.context_settings), name)
                if isinstance(command, click.Group):
                    load(command)

        load(root)
        print(" ".join(sys.modules))
    """
    done = subprocess.run(
        [program()[0], "-c", code], capture_output=True, text=True, env=environment(tmp_path), check=True
    )
    assert set(done.stdout.split()) & HEAVY == set()


def test_version() -> None:
    assert run("--version").out == f"hyper2kvm {__version__}\n"


def test_an_unknown_command_is_told_with_the_nearest_one() -> None:
    result = run("expotr", "web01")
    assert result.status == 2
    assert "`hyper2kvm export`" in result.err
    assert result.out == ""


def test_no_command_without_a_terminal_is_an_error() -> None:
    result = run()
    assert result.status == 2
    assert "no command was given" in result.err


def test_a_missing_argument_points_to_the_help_of_its_command() -> None:
    result = run("inspect", "--json")
    assert result.status == 2
    assert result.error["code"] == "usage"
    assert "`hyper2kvm inspect --help`" in result.error["next_step"]
