"""A thousand clients of the event stream at once: memory, and how often the database is asked."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from hypersdk.state.database import Database
from tests.support.apiserver import ApiProcess, api_process, fill

pytestmark = pytest.mark.waits

CLIENTS = 1000
MiB = 1024 * 1024


async def _open(program: ApiProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    address = urlsplit(program.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = (
        f"GET /api/v1/events HTTP/1.1\r\nHost: {address.netloc}\r\nAuthorization: Bearer"
        f" {program.tokens['viewer']}\r\n\r\n"
    )
    writer.write(head.encode())
    status = await asyncio.wait_for(reader.readline(), 60)
    assert status.startswith(b"HTTP/1.1 200"), status
    await asyncio.wait_for(reader.readuntil(b"event: hello"), 60)
    return reader, writer


async def _until(reader: asyncio.StreamReader, text: bytes) -> None:
    """Reads up to ``text``, whatever comes before."""
    kept = b""
    while text not in kept:
        data = await asyncio.wait_for(reader.read(65536), 60)
        assert data, "the stream ended"
        kept = kept[-len(text) :] + data


async def _all(program: ApiProcess, folder: Path, slow: int) -> None:
    """Opens them all; changes a job; everybody who reads is told."""
    connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        for start in range(0, CLIENTS, 50):
            connections += await asyncio.gather(*(_open(program) for _ in range(start, min(start + 50, CLIENTS))))
        database = Database.open(f"sqlite:///{folder / 'state' / 'state.sqlite3'}")
        try:
            for number in range(5):
                await asyncio.to_thread(fill, database, 20, f"load{number}")
                await asyncio.sleep(0.2)
            await asyncio.to_thread(fill, database, 1, "the-last-one")
        finally:
            database.close()
        await asyncio.gather(*(_until(reader, b"the-last-one") for reader, _ in connections[slow:]))
    finally:
        for _, writer in connections:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in connections), return_exceptions=True)


def _metric(program: ApiProcess, name: str) -> float:
    headers = {"Authorization": f"Bearer {program.tokens['metrics']}"}
    text = httpx.get(f"{program.url}/metrics", headers=headers, timeout=60).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(name + " "))


@pytest.mark.slow
def test_a_thousand_clients_are_one_poll_and_little_memory(
    tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    with api_process(tmp_path) as program:
        httpx.get(f"{program.url}/status", headers={"Authorization": f"Bearer {program.tokens['viewer']}"})
        before = program.rss_bytes()
        most = 0
        began = time.monotonic()

        async def watched() -> None:
            nonlocal most
            task = asyncio.ensure_future(_all(program, tmp_path, slow=20))
            while not task.done():
                most = max(most, program.rss_bytes())
                await asyncio.sleep(0.1)
            await task

        asyncio.run(watched())
        spent = time.monotonic() - began
        polls = _metric(program, "hypersdk_event_polls_total")
    print(
        f"RSS {before / MiB:.0f} MiB before, {most / MiB:.0f} MiB with {CLIENTS} clients; {polls:.0f} polls in"
        f" {spent:.0f} s"
    )
    assert most <= 300 * MiB
    assert polls <= spent / 0.5 + 2
