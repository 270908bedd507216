"""One disk from its source into its image: tried again when it breaks, remembered block by block, proved by its
digests.

::

    transfer_disk ── tries ── StreamPass (transfer.streaming)  a stream, from its first byte
                         └─── RangePass  (transfer.ranging)    ranges, only what is missing
                                  └── Sink (transfer.sink) ── writer ── ledger ── checkpoints
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from hypersdk.errors import HyperSDKError, IntegrityError
from hypersdk.formats.image import BLOCK, ImageWriter
from hypersdk.transfer.budget import EXHAUSTED_CODE, StreamBudget
from hypersdk.transfer.cancel import CancelToken
from hypersdk.transfer.crew import WorkerGroup
from hypersdk.transfer.files import target_errors
from hypersdk.transfer.ledger import BlockLedger
from hypersdk.transfer.limit import BandwidthLimit
from hypersdk.transfer.progress import Meter
from hypersdk.transfer.ranging import RangeOptions, RangePass
from hypersdk.transfer.receipt import Receipt
from hypersdk.transfer.retry import Attempts, RetryPolicy
from hypersdk.transfer.sink import Checkpoints, Sink, StoredCounts
from hypersdk.transfer.source import DiskSource, RangeSource, StreamDigests, StreamSource
from hypersdk.transfer.space import SpaceGate
from hypersdk.transfer.streaming import PassOptions, StreamPass
from hypersdk.transfer.takeover import take_over
from hypersdk.units import MiB, format_duration

CHECKPOINT_BYTES: Final = 64 * MiB
RANGE_STREAMS: Final = 4


def transfer_disk(
    source: DiskSource,
    writer: ImageWriter,
    ledger: BlockLedger | None,
    *,
    cancel: CancelToken,
    meter: Meter,
    check: bool = True,
    workers: int = 2,
    range_streams: int = RANGE_STREAMS,
    retry: RetryPolicy | None = None,
    limit: BandwidthLimit | None = None,
    budget: StreamBudget | None = None,
    space: SpaceGate | None = None,
    hashes: Collection[str] = ("sha256",),
    checkpoint_bytes: int = CHECKPOINT_BYTES,
    clock: Callable[[], float] = time.monotonic,
) -> Receipt:
    """Copies ``source`` into ``writer`` and finishes it: when this returns, the image is whole and durable.

    ``ledger`` says what an earlier run wrote: that is read back first (``transfer.takeover``), and what is still there
    is not written again (a stream's blocks are compared with it, ranges are not even fetched). Without one the run
    cannot be resumed. ``check=False`` passes grains on
    unseen: then there is no content digest.
    ``workers`` inflate and hash. ``hashes`` are the digests of the stream; SHA-1 is added where the source wants it.
    ``space`` waits for room for the ledger; the image's own file is wrapped in ``SpaceWaitingFile`` by who opened it.

    Ends with the first error of any of its threads, raised once: TransientError and SourceError of the source when the
    retries are used up; IntegrityError; TargetError; Cancelled within about a second of the cancel. Whatever it raises,
    no thread is left, the ledger holds nothing that is not in the image, and a later run may go on.
    """
    if source.capacity_bytes != writer.capacity:
        raise ValueError(f"a disk of {source.capacity_bytes} bytes into an image of {writer.capacity}")
    started = clock()
    with ExitStack() as stack:
        kept = ledger if ledger is not None else stack.enter_context(BlockLedger.unnamed(writer.capacity))
        damaged = take_over(writer, kept, cancel=cancel, meter=meter, workers=workers) if kept.recorded else 0
        found = kept.recorded
        meter.found(min(found * BLOCK, writer.capacity))
        checkpoints = None
        until_copied = stack.enter_context(ExitStack())
        if ledger is not None:
            checkpoints = Checkpoints(kept, writer.sync, checkpoint_bytes, meter.file_name)
            until_copied.enter_context(checkpoints)
        copy = _Copy(
            writer,
            kept,
            cancel,
            meter,
            retry or RetryPolicy(),
            limit,
            budget,
            space,
            checkpoints,
            clock,
            progress_reset_bytes=checkpoint_bytes,
        )
        digests: StreamDigests | None = None
        if isinstance(source, RangeSource):
            copy.ranges(source, range_streams)
        else:
            digests = copy.stream(source, _hashes(source, hashes), workers, check=check)
        until_copied.close()  # of two syncs at once only one hears of an error, and a checkpoint must not call durable what the other lost
        with target_errors(f"finishing {meter.file_name}"), kept.syncing():
            writer.finish()
        return copy.receipt(source, digests, found, damaged, clock() - started)


@contextmanager
def named(label: str) -> Iterator[None]:
    """What the decoder finds wrong it knows by its offset; the user must know the disk."""
    try:
        yield
    except IntegrityError as error:
        if error.message.startswith(label):
            raise
        raise IntegrityError(
            f"{label}: {error.message}", code=error.code, cause=error.cause, next_step=error.next_step, **error.fields
        ) from error


def _hashes(source: StreamSource, hashes: Collection[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys([*hashes, *(["sha1"] if source.wants_sha1 else [])]))


@dataclass(slots=True)
class _Copy:
    """The tries of one disk. ``progress_reset_bytes``: a try that stored as much got somewhere, and the count of failures starts
    again."""

    writer: ImageWriter
    ledger: BlockLedger
    cancel: CancelToken
    meter: Meter
    retry: RetryPolicy
    limit: BandwidthLimit | None
    budget: StreamBudget | None
    space: SpaceGate | None
    checkpoints: Checkpoints | None
    clock: Callable[[], float]
    progress_reset_bytes: int
    tally: StoredCounts = field(default_factory=StoredCounts)
    tries: int = 0
    route: str = ""

    def stream(self, source: StreamSource, hashes: Sequence[str], workers: int, *, check: bool) -> StreamDigests:
        """Reads the stream to its end, from its start again after each break; what is in the image stays there."""
        options = PassOptions(hashes, check, self.writer.ordered, workers, self.limit, self.clock)
        attempts = Attempts(self.retry)
        while True:
            before = self.ledger.recorded
            self._tried()
            try:
                return self._stream_once(source, options)
            except HyperSDKError as error:
                news = (self.ledger.recorded - before) * BLOCK >= self.progress_reset_bytes
                wait_s = attempts.failed(error, made_progress=news or self._others_run(error, source.host))
                note = f"{error.message}; trying again in {format_duration(wait_s)}"
            with self.meter.waiting(note):
                self.cancel.sleep(wait_s)

    def _stream_once(self, source: StreamSource, options: PassOptions) -> StreamDigests:
        slot = self.budget.stream(source.host, self.cancel, self.meter.waiting) if self.budget else nullcontext()
        with (
            named(source.label),
            slot,
            WorkerGroup(self.cancel, source.label) as crew,
            source.open(crew.token) as stream,
        ):
            self.route = stream.route
            self.meter.begin_stream(stream.length_bytes, source.allocated_bytes)
            sink = self._sink(crew)
            return StreamPass(crew, stream, source.capacity_bytes, sink, self.meter, options).run()

    def ranges(self, source: RangeSource, streams: int) -> None:
        """Fetches what is missing; each range is tried again by itself."""
        options = RangeOptions(streams, self.writer.ordered, self.retry, self.limit, self.budget)
        self.route = f"{source.host}, ranges"
        self._tried()
        with WorkerGroup(self.cancel, source.label) as crew:
            RangePass(crew, source, self.ledger, self._sink(crew), self.meter, options, self._tried).run()

    def _sink(self, crew: WorkerGroup) -> Sink:
        return Sink(
            self.writer, self.ledger, self.meter, self.tally, self.checkpoints, space=self.space, cancel=crew.token
        )

    def _tried(self) -> None:
        self.tries += 1
        self.meter.tried()

    def _others_run(self, error: HyperSDKError, host: str) -> bool:
        """A host that has no room for one more stream of ours, while others of ours run there: they end, and then it
        has.

        Such a refusal lowers the budget and does not use up a retry.
        """
        if error.code != EXHAUSTED_CODE or self.budget is None:
            return False
        self.budget.exhausted(host)
        return self.budget.use(host).running > 0

    def receipt(
        self, source: DiskSource, digests: StreamDigests | None, found: int, damaged: int, elapsed_s: float
    ) -> Receipt:
        """What was done."""
        return Receipt(
            label=source.label,
            capacity_bytes=self.writer.capacity,
            content=self.ledger.content_digest(),
            stream=digests,
            wire_bytes=self.meter.wire_bytes,
            written_bytes=self.meter.written_bytes,
            data_bytes=self.ledger.data_bytes,
            blocks_written=self.tally.written,
            blocks_skipped=found,
            blocks_zero=self.tally.zero,
            attempts=self.tries,
            elapsed_s=elapsed_s,
            route=self.route,
            blocks_damaged=damaged,
        )
