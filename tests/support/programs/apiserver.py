"""An API in a separate process, for tests that measure it: ``python -m tests.support.programs.apiserver FOLDER
[DATABASE_URL]``.

Prints one line of JSON when it serves: ``url``, ``tokens`` by role, ``pid``. Ends on SIGTERM.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

from hypersdk.api.app import create_app
from hypersdk.api.server import HTTPServer
from tests.support.apiserver import beating, make_tokens
from tests.support.services import running_services


def stay_on_loopback() -> None:
    """Names and addresses of others, which a fuzzer makes up, are never looked up: a test talks to this machine
    only."""
    look_up = socket.getaddrinfo

    def only_here(host: Any, *more: Any, **named: Any) -> Any:
        name = host.decode("ascii", "replace") if isinstance(host, bytes) else host
        if name is not None and name != "localhost" and not str(name).startswith("127."):
            raise socket.gaierror(socket.EAI_NONAME, "not looked up in tests")
        return look_up(host, *more, **named)

    socket.getaddrinfo = only_here


def main() -> None:
    """Serves; logs to stderr."""
    logging.basicConfig(level=logging.WARNING)
    stay_on_loopback()
    url = sys.argv[2] if len(sys.argv) > 2 else None
    with running_services(Path(sys.argv[1]), database_url=url) as services, beating(services):
        tokens = make_tokens(services)
        server = HTTPServer(create_app(services), services.settings)

        def ready() -> None:
            print(json.dumps({"url": server.url, "tokens": tokens, "pid": os.getpid()}), flush=True)

        server.run(ready)


if __name__ == "__main__":
    main()
