"""What is made from the commands: shell completion, manual pages, the list of error codes."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hypersdk
from hypersdk.cli import errorlist
from hypersdk.cli.app import COMMANDS
from hypersdk.cli.man import EXIT_STATUS
from hypersdk.cli.programs.pages import roff
from hypersdk.cli.remedies import next_step
from hypersdk.errors import CODES
from tests.support.cli.commandline import environment, run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_path(tmp_path: Path) -> Path:
    """A folder with ``hyper2kvm`` in it, for shells."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "hyper2kvm"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m hypersdk.cli.main "$@"\n')
    script.chmod(0o755)
    return folder


def completed(on_path: Path, script: Path, line: str) -> set[str]:
    """What bash offers for ``line`` once the script has been read."""
    words = line.split(" ")
    code = f"""
        source {script}
        COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
        COMP_LINE='{line}' COMP_POINT={len(line)}
        handler=$(complete -p hyper2kvm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $handler hyper2kvm "${{COMP_WORDS[-1]}}" ''
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    env = environment(on_path.parent, PATH=f"{on_path}:{os.environ['PATH']}")
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_bash_completes_commands_flags_and_values(on_path: Path, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text(run("completion", "bash").out)
    assert completed(on_path, script, "hyper2kvm ex") == {"export"}
    assert completed(on_path, script, "hyper2kvm ") == set(COMMANDS)
    assert {"--remove-cdrom", "--resume", "--retries"} <= completed(on_path, script, "hyper2kvm export --re")
    assert completed(on_path, script, "hyper2kvm export --format q") == {"qcow2"}


@pytest.mark.parametrize(
    ("shell", "check"), [("bash", ["bash", "-n"]), ("zsh", ["zsh", "-n"]), ("fish", ["fish", "-n"])]
)
def test_the_scripts_are_valid_and_installed_where_the_shell_looks(
    tmp_path: Path, shell: str, check: list[str]
) -> None:
    env = {"HOME": str(tmp_path), "SHELL": f"/usr/bin/{shell}"}
    printed = run("completion", env=env)
    assert printed.status == 0
    done = run("--install-completion", env=env)
    assert done.status == 0
    (path,) = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert str(path) in done.out
    assert path.read_text().strip() == printed.out.strip()
    assert "_HYPER2KVM_COMPLETE" in printed.out
    if shell == "bash" or shutil.which(check[0]):  # the others are not asked of everybody who runs the tests
        subprocess.run([*check, path], check=True, capture_output=True)


def test_an_unknown_shell_is_told_what_to_do() -> None:
    done = run("completion", env={"SHELL": "/bin/tcsh"})
    assert done.status == 2
    assert "completion bash|zsh|fish" in done.err


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("man")
    assert run("man", "-o", str(folder), env={"SOURCE_DATE_EPOCH": "86400"}).status == 0
    return folder


def rendered(page: Path, width: int = 78) -> str:
    """The page as ``man`` shows it; what it warns of is an error."""
    env = {
        **os.environ,
        "MANWIDTH": str(width),
        "MANROFFOPT": "-ww",
        "LC_ALL": "C.UTF-8",
        "MANPAGER": "cat",
        "TERM": "dumb",
    }
    done = subprocess.run(["man", "-l", "--warnings", page], capture_output=True, text=True, env=env, check=True)
    assert done.stderr == ""
    return re.sub(".\b", "", done.stdout)


@pytest.mark.parametrize("name", ["hyper2kvm.1", *(f"hyper2kvm-{name}.1" for name in COMMANDS)])
def test_every_page_renders_without_a_warning(pages: Path, name: str) -> None:
    text = rendered(pages / name)
    for section in ("NAME", "SYNOPSIS", "DESCRIPTION", "EXIT STATUS", "SEE ALSO"):
        assert f"\n{section}\n" in text, section
    assert "1970-01-02" in text
    assert {path.name for path in pages.iterdir()} >= {name}


def test_the_page_of_export_says_what_help_says(pages: Path) -> None:
    text = " ".join(rendered(pages / "hyper2kvm-export.1").split())
    for flag in re.findall(r"(?<= )--[a-z-]+", run("export", "--help").out):
        assert flag in text.replace("‐", "-"), flag
    assert "[=checked|unchecked|repack|none]" in text


def test_statuses_in_the_pages_are_those_of_the_error_tree() -> None:
    listed = {status for row, _ in EXIT_STATUS for status in row.split(", ")}
    errorlist.load_all()  # what is registered must not depend on the tests before this one
    families = {str(family.exit_status) for family in errorlist.families()} - {"12", "13"}  # the daemon's, its clients'
    assert listed == {"0", "1", "129", "141", "143", *families}


def test_roff_takes_no_text_for_a_macro() -> None:
    assert roff(".so /etc/passwd").startswith("\\&.")
    assert roff("'x") == "\\&'x"
    assert roff('a\\b-"c"') == "a\\eb\\-\\(dqc\\(dq"


def test_man_into_a_folder_that_cannot_be_is_told() -> None:
    done = run("man", "-o", "/dev/null/x")
    assert done.status == 9
    assert "/dev/null/x" in done.err


# --- the list of error codes


def test_the_page_of_codes_is_what_the_registry_says() -> None:
    made = subprocess.run(
        [sys.executable, "-m", "hypersdk.cli.errorlist"], capture_output=True, text=True, check=True
    ).stdout
    assert (ROOT / "docs" / "errors.md").read_text() == made, "run: python -m hypersdk.cli.errorlist > docs/errors.md"


def registered_in_source() -> set[str]:
    """First arguments of all calls of ``register`` in the source, read without importing it."""
    found = set()
    for path in Path(hypersdk.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "register":
                first = node.args[0]
                code = first.value if isinstance(first, ast.Constant) else None
                assert isinstance(code, str), f"{path}:{node.lineno}: a code must be a literal, to be searched for"
                found.add(code)
    return found


def test_every_code_in_the_source_is_on_the_page() -> None:
    page = (ROOT / "docs" / "errors.md").read_text()
    listed = set(re.findall(r"^\| `([a-z0-9_]+)` \|", page, re.MULTILINE))
    assert listed == registered_in_source()
    errorlist.load_all()
    assert listed == set(CODES)


def test_every_code_has_a_cause_and_a_next_step_in_whole_sentences() -> None:
    errorlist.load_all()
    for code, info in CODES.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", code)
        for text in (info.cause, next_step(info)):
            assert text[-1] in ".?!", (code, text)


def test_the_list_of_statuses_is_complete() -> None:
    page = errorlist.page()
    for family in errorlist.families():
        assert f"| {family.exit_status} |" in page
