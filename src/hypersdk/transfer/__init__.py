"""Copies one disk: streams and ranges, retries, limits, digests, checkpoints, progress."""
