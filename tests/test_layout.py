"""Where the parts of the suite live: a test module holds tests, all that tests share is in ``tests/support``."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parent
ROOT = TESTS.parent
MADE_ELSEWHERE = {TESTS / "jobs" / "earlier" / "make.py"}
"""Runs in the source of an earlier release, beside what it made."""
MODULES = sorted(path for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """The modules that a module imports, wherever in it, by their full names; of ``from`` with the name as well, which
    may be a module."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join((*parents, *([node.module] if node.module else [])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def test_of_tests_only_support_is_imported() -> None:
    refused = {
        f"{path.relative_to(ROOT)} imports {name}"
        for path in MODULES
        for name in imported(path)
        if f"{name}.".startswith("tests.") and not f"{name}.".startswith("tests.support.")
    }
    assert refused == set()


def test_helpers_do_not_lie_beside_tests() -> None:
    others = {path for path in MODULES if path.is_relative_to(TESTS) and not path.is_relative_to(TESTS / "support")}
    assert {
        path for path in others if not path.name.startswith("test_") and path.name not in {"conftest.py", "__init__.py"}
    } == MADE_ELSEWHERE
