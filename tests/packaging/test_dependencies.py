"""What the program imports is what its packages carry: no more, no less."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BY_NAME = {"psycopg", "libvirt-python"}
"""Asked for by name when they are needed, not by an import statement."""
PARTS = {"pydantic-core"}
"""Parts of another one, in the version that it asks for."""


def _names(requirements: list[str]) -> set[str]:
    return {_plain(re.split(r"[\[<>=~! ;]", one)[0]) for one in requirements}


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported() -> set[str]:
    """Distributions that the source imports, anywhere in a file."""
    modules: set[str] = set()
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                modules |= {one.name.partition(".")[0] for one in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                modules.add(node.module.partition(".")[0])
    known = packages_distributions()
    return {_plain(known[one][0]) for one in modules - set(sys.stdlib_module_names) - {"hypersdk"}}


def _pinned(extra: str) -> set[str]:
    return _names(re.findall(r"^[a-z0-9][^ ]*", (ROOT / f"requirements/{extra}.txt").read_text(), re.MULTILINE))


def test_what_is_imported_is_what_the_packages_carry() -> None:
    extras = PROJECT["optional-dependencies"]
    asked_for = _names(PROJECT["dependencies"] + extras["demo"] + extras["daemon"] + extras["kvm"])
    imported = _imported() | BY_NAME
    assert asked_for == imported - PARTS
    assert imported <= _pinned("daemon") | _pinned("kvm")  # both of which scripts/package installs


def test_every_pin_has_hashes_and_no_address() -> None:
    for path in (ROOT / "requirements").glob("*.txt"):
        text = path.read_text()
        assert not re.search(r"^-|https?://", text, re.MULTILINE), path
        pins = re.findall(r"^[a-z0-9].*\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", text, re.MULTILINE)
        assert len(pins) == len(re.findall(r"^[a-z0-9]", text, re.MULTILINE)) > 0, path
