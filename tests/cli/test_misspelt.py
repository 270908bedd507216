"""Help and mistakes on the command line: `-h` everywhere, the flag that was meant, questions that are asked again, the
package that is not installed."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import click
import pytest

from hypersdk.cli.app import program as hyper2kvm
from hypersdk.cli.hyperctl.app import program as hyperctl
from hypersdk.cli.hypervisord.app import program as hypervisord
from hypersdk.cli.programs.program import MAX_ASKED, Program
from tests.support.cli.commandline import Run, environment, terminal

PROGRAMS = {found.name: found for found in (hyper2kvm, hyperctl, hypervisord)}
SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(line: str, home: Path) -> Run:
    """A command line in this process."""
    name, *words = line.split()
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = PROGRAMS[name].main(words, out, err, io.StringIO(), {"HOME": str(home)})
    return Run(status, out.getvalue(), err.getvalue())


def commands_of(program: Program) -> Iterator[str]:
    """Every command and command of a group, as typed."""
    root = click.Context(program.root, info_name=program.name, **program.root.context_settings)
    yield program.name
    for name in program.root.list_commands(root):
        command = program.root.get_command(root, name)
        yield f"{program.name} {name}"
        if isinstance(command, click.Group):
            inner = click.Context(command, info_name=name, parent=root)
            yield from (f"{program.name} {name} {inside}" for inside in command.list_commands(inner))


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_command_has_h(program: Program, tmp_path: Path) -> None:
    for line in commands_of(program):
        short = run(f"{line} -h", tmp_path)
        assert short.status == 0, short
        assert short.out.startswith(f"Usage: {line} "), line
        assert run(f"{line} --help", tmp_path).out == short.out


@pytest.mark.parametrize("script", ["demo", "test", "check", "bench", "package", "pin", "fuzz-api"])
def test_every_script_has_h(script: str) -> None:
    done = subprocess.run([SCRIPTS / script, "-h"], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout
    assert "lib.sh" not in done.stdout, "only the first lines"


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("hyper2kvm export web --fromat qcow2", "there is no flag --fromat", "Did you mean --format"),
        ("hyper2kvm export web -format qcow2", "there is no flag -format", "Did you mean --format?"),
        ("hyper2kvm --jsn list", "there is no flag --jsn", "Did you mean --json?"),
        ("hyper2kvm list --zzzz", "there is no flag --zzzz", "See `hyper2kvm list --help`."),
        ("hyper2kvm export web --format qcwo2", "'qcwo2' is not one of", "Did you mean qcow2?"),
        ("hyper2kvm lsit", "there is no command 'lsit'", "Did you mean `hyper2kvm list`?"),
        ("hyper2kvm export web --compress checked", "write --compress=checked", "See `hyper2kvm export --help`."),
        ("hyper2kvm export --compress unchecked web", "write --compress=unchecked", "See"),
        ("hyperctl submit --file x --compress checked", "extra argument (checked)", "--compress takes no value."),
        ("hyperctl submit -fiel job.yaml", "there is no flag -fiel", "Did you mean --file?"),
        ("hyperctl submit -fiel=job.yaml", "there is no flag -fiel=job.yaml", "Did you mean --file?"),
        ("hyperctl query -statsu running", "there is no flag -statsu", "Did you mean --status?"),
        ("hyperctl query -o jsn", "'jsn' is not one of", "Did you mean json?"),
        ("hyperctl tokens crate", "there is no command 'crate'", "Did you mean `hyperctl tokens create`?"),
        ("hypervisord -adr localhost:1", "there is no flag -adr", "Did you mean --addr?"),
    ],
)
def test_the_mistake_is_named_with_what_was_meant(line: str, message: str, hint: str, tmp_path: Path) -> None:
    done = run(line, tmp_path)
    assert done.status == 2
    assert message in done.err
    assert hint in " ".join(done.err.split())


def test_a_value_behind_a_short_flag_is_not_taken_for_a_long_one(tmp_path: Path) -> None:
    job = tmp_path / "job.yaml"
    job.write_text("vm_path: web\noutput_path: /srv\n")
    assert "daemon_unreachable" in run(f"hyperctl submit -f{job} --url http://127.0.0.1:9", tmp_path).err
    assert "daemon_unreachable" in run("hyperctl query -ojson --url http://127.0.0.1:9", tmp_path).out
    assert "no flag" not in run("hyper2kvm export -- -fiel --fromat", tmp_path).err


def test_the_simulator_names_a_misspelt_flag() -> None:
    command = [sys.executable, "-m", "hypersdk.simulator", "--fualt", "stall"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Did you mean --fault" in done.stderr


def test_an_unknown_answer_is_asked_again_and_the_end_of_input_is_a_no(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "hypersdk.cli.hypervisord"]
    state = ["--state-dir", str(tmp_path / "state")]
    subprocess.run([*program, "migrate-db", *state], env=environment(tmp_path), check=True, capture_output=True)
    for typed in (["maybe\n", "no\n"], ["\x04"], ["what\n"] * MAX_ASKED):
        with terminal([*program, "reset-vault", *state], environment(tmp_path)) as screen:
            for answer in typed:
                screen.wait_for("Type yes: ")
                screen.shown = ""
                screen.type(answer)
            screen.finish()
        assert "Traceback" not in screen.shown
        assert "Please answer yes, no." in screen.shown or len(typed) == 1 or typed[-1] == "no\n"
        assert "deleted;" not in screen.shown


@pytest.mark.parametrize(
    ("module", "package", "told"),
    [
        ("hypersdk.cli.hypervisord", "sqlalchemy", "pip install 'hypersdk[daemon]'"),
        ("hypersdk.simulator", "lxml", "pip install 'hypersdk[demo]'"),
    ],
)
def test_a_missing_package_is_named_with_how_to_install_it(
    module: str, package: str, told: str, tmp_path: Path
) -> None:
    hide = f"import sys, runpy; sys.modules[{package!r}] = None; runpy.run_module({module!r}, run_name='__main__')"
    env = environment(tmp_path)
    done = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, env=env, check=False)
    assert done.returncode in (1, 2)
    assert f"needs the Python package {package}" in done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("crash-*"))
