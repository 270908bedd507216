"""One disk from source to sink: stream, retry, limit, digest, checkpoint, progress."""
