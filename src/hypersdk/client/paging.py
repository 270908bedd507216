"""Complete lists, fetched page by page."""

from __future__ import annotations

from collections.abc import Iterator

from hypersdk.client.records import Raw, objects, take
from hypersdk.client.transport import Params, Transport


def every(transport: Transport, path: str, key: str, params: Params | None = None) -> Iterator[Raw]:
    """All rows of a list, each once, even if rows are added or deleted while its pages are fetched. Raises as
    ``Transport.request``."""
    seen: set[str] = set()
    offset = 0
    while True:
        # The first page without paging parameters: daemons of the first release return all rows and know no offset.
        asked = {**(params or {}), **({"offset": offset} if offset else {})}
        answer = transport.request("GET", path, params=asked or None).object()
        rows = objects(answer, key)
        for row in rows:
            row_id = take(row, "id", str)
            if row_id not in seen:
                seen.add(row_id)
                yield row
        offset += len(rows)
        if not rows or offset >= take(answer, "total", int, offset):
            return
