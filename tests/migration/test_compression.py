"""Which compression goes with which format: one rule, whoever asks."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.errors import CODES, Refused
from hypersdk.migration.convert import convert_file
from hypersdk.migration.formats import FORMATS
from hypersdk.migration.jobfile import load_jobs
from hypersdk.migration.settings import RunSettings
from hypersdk.migration.spec import Compression, ExportSpec, OutputFormat
from hypersdk.transfer.cancel import CancelToken
from hypersdk.units import MiB
from tests.support.tools import run_tool

PASSED_ON = {Compression.NONE, Compression.CHECKED, Compression.UNCHECKED}
FITTING = {
    OutputFormat.QCOW2: set(Compression),
    OutputFormat.RAW: {Compression.NONE},
    OutputFormat.OVF: PASSED_ON,
    OutputFormat.OVA: PASSED_ON,
    OutputFormat.VMDK: PASSED_ON,
}
UNFIT = [(output, compress) for output in OutputFormat for compress in Compression if compress not in FITTING[output]]


@pytest.mark.parametrize("output", OutputFormat)
def test_the_rule(output: OutputFormat) -> None:
    assert {compress for compress in Compression if FORMATS[output].refusal(compress) is None} == FITTING[output]


def test_the_next_step_says_the_rule() -> None:
    step = next_step(CODES["compress_unfit"])
    assert (
        step == "qcow2 supports every kind; ovf, ova and vmdk support none, checked and unchecked; raw supports none."
    )


@pytest.mark.parametrize(("output", "compress"), [pair for pair in UNFIT if pair[0] in ("raw", "vmdk")])
def test_a_conversion_is_refused_like_an_export(tmp_path: Path, output: OutputFormat, compress: Compression) -> None:
    source, out = tmp_path / "disk.vmdk", tmp_path / "out"
    run_tool("qemu-img", "create", "-f", "vmdk", source, str(MiB))
    spec = ExportSpec(machine="", output_dir=out, format=output, compress=compress)
    with pytest.raises(Refused) as caught:
        convert_file(
            source, spec, cancel=CancelToken(), observer=lambda _: None, settings=RunSettings(state=tmp_path / "state")
        )
    assert caught.value.code == "compress_unfit"
    assert not out.exists()


@pytest.mark.parametrize(("output", "compress"), UNFIT)
def test_a_job_is_refused_as_it_is_read(output: OutputFormat, compress: Compression) -> None:
    text = f"vm_path: web-01\noutput_path: out\nformat: {output}\ncompress: {compress}\n"
    (entry,) = load_jobs(text, environ={})
    assert entry.definition is None
    assert re.search(r"compress.* is .*choose qcow2", str(entry.error))
