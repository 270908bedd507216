"""Fixtures of the whole suite live in ``tests/support``; this file only makes them known."""

pytest_plugins: list[str] = [
    "tests.support.peers",
    "tests.support.tlsserver",
    "tests.support.sessions",
    "tests.support.simulator",
]
