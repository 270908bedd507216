"""Copies one disk from its source into its image: retried when it breaks, recorded block by block, verified by
digests.

::

    transfer_disk ── tries ── StreamPass (transfer.streaming)  a stream, from its first byte
                         └─── RangePass  (transfer.ranging)    ranges, only what is missing
                                  └── Sink (transfer.sink) ── writer ── ledger ── checkpoints

``transfer.policies`` adds budget, retries, limit and waiting for space to sources and ledger.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass

from hypersdk.errors import HyperSDKError, IntegrityError
from hypersdk.formats.image import BLOCK, ImageWriter
from hypersdk.transfer.blockmap import BlockMap
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.policies import CopyOptions, Policies
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.ranging import RangePass
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.retry import Attempts
from hypersdk.transfer.sink import Checkpoints, Sink, differs_now
from hypersdk.transfer.source import DiskSource, RangeSource, StreamDigests, StreamSource
from hypersdk.transfer.streaming import StreamPass
from hypersdk.transfer.takeover import take_over
from hypersdk.transfer.workergroup import WorkerGroup
from hypersdk.units import format_duration


def transfer_disk(
    source: DiskSource,
    writer: ImageWriter,
    ledger: BlockLedger | None,
    *,
    cancel: CancelToken,
    meter: Meter,
    policies: Policies,
    options: CopyOptions,
) -> Receipt:
    """Copies ``source`` into ``writer`` and finishes it: when this returns, the image is complete and durable.

    ``ledger`` has the blocks that an earlier run wrote: they are read back first (``transfer.takeover``), and those
    that are intact are not written again (blocks of a stream are compared with them, ranges are not fetched). Without a
    ledger the run cannot be resumed.

    Raises the first error of any of its threads: TransientError and SourceError of the source when the retries are used
    up; IntegrityError; TargetError; Cancelled within about a second of the cancel. Whatever it raises, no thread is
    left, the ledger has no block that is not in the image, and a later run can resume.
    """
    if source.capacity_bytes != writer.capacity:
        raise ValueError(f"a disk of {source.capacity_bytes} bytes into an image of {writer.capacity}")
    started = options.clock()
    with ExitStack() as stack:
        blocks = ledger if ledger is not None else stack.enter_context(BlockLedger.unnamed(writer.capacity))
        copy = _Copy(writer, blocks, cancel, meter, policies, options)
        copy.take_over()
        # Closed before the image is finished: of two syncs at once only one gets the error, and a checkpoint must
        # not call durable what the other lost.
        if ledger is not None:
            copy.checkpoints = Checkpoints(ledger, writer.sync, options.checkpoint_bytes, meter.file_name)
        with copy.checkpoints or nullcontext():
            digests = copy.run(source)
        with target_errors(f"finishing {meter.file_name}"), blocks.syncing():
            writer.finish()
        return copy.receipt(source, digests, options.clock() - started)


@contextmanager
def named(label: str) -> Iterator[None]:
    """Puts the disk's ``label`` in front of the message of an IntegrityError: the decoder only knows offsets."""
    try:
        yield
    except IntegrityError as error:
        if error.message.startswith(label):
            raise
        raise IntegrityError(
            f"{label}: {error.message}",
            code=error.code,
            cause=error.cause,
            next_step=None,
            remedies=error.remedies,
            reasons=error.reasons,
            **error.fields,
        ) from error


@dataclass(slots=True)
class _Copy:
    """The attempts of one disk. ``found`` blocks are from an earlier run; ``damaged`` ones of it are copied again."""

    writer: ImageWriter
    ledger: BlockLedger
    cancel: CancelToken
    meter: Meter
    policies: Policies
    options: CopyOptions
    checkpoints: Checkpoints | None = None
    found: int = 0
    damaged: int = 0
    route: str = ""

    def take_over(self) -> None:
        """Verifies what an earlier run wrote."""
        if self.ledger.recorded:
            self.damaged = take_over(
                self.writer, self.ledger, cancel=self.cancel, meter=self.meter, workers=self.options.workers
            )
        self.found = self.ledger.recorded
        self.meter.found(min(self.found * BLOCK, self.writer.capacity))

    def run(self, source: DiskSource) -> StreamDigests | None:
        """Reads the source to its end."""
        if isinstance(source, RangeSource):
            self._ranges(source)
            return None
        return self._stream(source)

    def _stream(self, source: StreamSource) -> StreamDigests:
        """Reads the stream, from its start after each break; what is in the image stays there."""
        attempts = Attempts(self.policies.retry)
        while True:
            before = self.ledger.recorded
            self.meter.tried()
            try:
                return self._stream_once(source)
            except HyperSDKError as error:
                progress = (self.ledger.recorded - before) * BLOCK >= self.options.checkpoint_bytes
                wait_s = attempts.failed(error, made_progress=progress or self.policies.refused(error, source.host))
                note = f"{error.message}; trying again in {format_duration(wait_s)}"
            with self.meter.waiting(note):
                self.cancel.sleep(wait_s)

    def _stream_once(self, source: StreamSource) -> StreamDigests:
        with (
            named(source.label),
            WorkerGroup(self.cancel, source.label) as group,
            self.policies.stream(source, self.meter, group.token) as stream,
        ):
            self.route = stream.route
            self.meter.begin_stream(stream.length_bytes, source.allocated_bytes)
            arrived = BlockMap(self.ledger.blocks) if self.ledger.recorded else None
            sink = self._sink(group)
            digests = StreamPass(group, stream, source, sink, self.meter, self.options, arrived).run()
            if arrived is not None:
                self._check_nothing_else(source, arrived)
            return digests

    def _check_nothing_else(self, source: StreamSource, arrived: BlockMap) -> None:
        """Raises IntegrityError ``content_differs`` where the image has data of an earlier stream in a block that the
        whole stream does not have: no digest of this stream covers it."""
        if (index := self.ledger.data_outside(arrived)) is not None:
            raise differs_now(source.label, index)

    def _ranges(self, source: RangeSource) -> None:
        """Fetches what is missing; each range is retried by itself."""
        self.route = f"{source.host}, ranges"
        self.meter.tried()
        with WorkerGroup(self.cancel, source.label) as group:
            sink = self._sink(group)
            RangePass(group, source, self.policies, self.ledger, sink, self.meter, self.options.range_streams).run()

    def _sink(self, group: WorkerGroup) -> Sink:
        record = self.policies.record(self.ledger, group.token, self.meter)
        return Sink(group, self.writer, self.ledger, record, self.meter, self.checkpoints)

    def receipt(self, source: DiskSource, digests: StreamDigests | None, elapsed_s: float) -> Receipt:
        """Returns the facts of the finished copy."""
        return Receipt(
            label=source.label,
            capacity_bytes=self.writer.capacity,
            content=self.ledger.content_digest(),
            stream=digests,
            wire_bytes=self.meter.wire_bytes,
            written_bytes=self.meter.written_bytes,
            data_bytes=self.ledger.data_bytes,
            blocks_written=self.meter.blocks_written,
            blocks_skipped=self.found,
            blocks_zero=self.meter.blocks_zero,
            attempts=self.meter.attempts,
            elapsed_s=elapsed_s,
            route=self.route,
            blocks_damaged=self.damaged,
        )
