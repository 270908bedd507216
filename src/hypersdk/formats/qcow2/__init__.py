"""QEMU's disk format: ``layout`` has the facts, ``clusters`` and ``mapping`` keep the tables, ``writer`` makes
images."""
