"""A libvirtd reached over TCP, as a remote one is: the files of its host are not those of the client's.

A tunnel on loopback passes everything on to the daemon's socket, and can be cut.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STEP = 64 * 1024


class Tunnel:
    """Passes connections on. ``cut_after`` ends all of them as soon as so many bytes went to the daemon."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, name="simulator tunnel")]
        self._threads[0].start()
        self.sent_bytes = 0
        self.cut_after: int | None = None

    @property
    def uri(self) -> str:
        """The daemon's address."""
        return f"qemu+tcp://127.0.0.1:{self._listening.getsockname()[1]}/system"

    def close(self) -> None:
        """Ends it with all its connections."""
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Ends all connections."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect(str(self._target))
            self._open += [client, daemon]
            for source, sink in ((client, daemon), (daemon, client)):
                thread = threading.Thread(target=self._pass_on, args=(source, sink), name="simulator tunnel")
                self._threads.append(thread)
                thread.start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(STEP):
                sink.sendall(data)
                if sink.family is socket.AF_UNIX:
                    self.sent_bytes += len(data)
                    if self.cut_after is not None and self.sent_bytes >= self.cut_after:
                        self.cut()
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def tunnel_to(target: Path) -> Iterator[Tunnel]:
    """A tunnel to the socket ``target``."""
    tunnel = Tunnel(target)
    try:
        yield tunnel
    finally:
        tunnel.close()
        for end in tunnel._open:
            end.close()
