"""Fixtures of the whole suite live in ``tests/support``; this file only makes them known."""

import os
import sys

import pytest

# Where compiled modules may not be kept, each process of the tests rewrites the assertions of all, which takes ten
# seconds, and each program that they start compiles all of its modules.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False
pytest.register_assert_rewrite("tests.support")

pytest_plugins: list[str] = [
    "tests.support.seeds",
    "tests.support.garbage",
    "tests.support.peers",
    "tests.support.tlsserver",
    "tests.support.sessions",
    "tests.support.simulator",
    "tests.support.databases",
    "tests.support.outages",
    "tests.support.services",
    "tests.support.apiserver",
    "tests.support.servedapi",
    "tests.support.libvirtd",
    "tests.support.guests.fixtures",
    "tests.support.moving",
    "tests.support.moves",
]
