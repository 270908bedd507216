"""An API in a process of its own, for tests that measure it: ``python -m tests.api.serverprogram FOLDER [DATABASE_URL]``.

Prints one line of JSON when it serves: ``url``, ``tokens`` by role, ``pid``. Ends on SIGTERM.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from hypersdk.api.app import create_app
from hypersdk.api.server import HTTPServer
from tests.support.apiserver import build_services, make_tokens


def main() -> None:
    """Serves."""
    services = build_services(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    tokens = make_tokens(services)
    server = HTTPServer(create_app(services), services.settings)

    def ready() -> None:
        print(json.dumps({"url": server.url, "tokens": tokens, "pid": os.getpid()}), flush=True)

    server.run(ready)


if __name__ == "__main__":
    main()
