"""QEMU's copy-on-write image format, version 3: ``layout`` has the facts, ``writer`` writes."""
