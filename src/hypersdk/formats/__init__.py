"""Byte codecs: pure and synchronous. Nothing here opens a file, a socket or a thread."""
