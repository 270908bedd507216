"""What one answer may be, whatever it is decoded by."""

from __future__ import annotations

import http.client
import socket
from contextlib import closing

import pytest

from hypersdk.vsphere.answers import CALL, Answer

DTD = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY e "x">]><x>&e;</x>'


def read(body: bytes) -> bytes:
    here, there = socket.socketpair()
    with closing(here), closing(there):
        there.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        answer = Answer(here, limits=CALL)
        answer.begin()
        return b"".join(iter(lambda: answer.read(7), b""))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_a_document_type_is_refused_in_every_encoding_that_a_decoder_finds_out(encoding: str) -> None:
    with pytest.raises(http.client.HTTPException):
        read(DTD.encode(encoding))


def test_an_answer_is_what_it_is() -> None:
    body = "<x>Straße, 東京</x>".encode()
    assert read(body) == body
