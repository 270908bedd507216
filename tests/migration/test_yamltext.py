"""YAML job files: read as PyYAML reads them, and given up at the first event that goes too far."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import yaml

from hypersdk.migration import yamltext
from hypersdk.migration.jobfile import load_jobs
from hypersdk.migration.yamltext import BadYaml, read_yaml

LOADERS = [pytest.param(yaml.SafeLoader, id="python")]
if hasattr(yaml, "CSafeLoader"):
    LOADERS.append(pytest.param(yaml.CSafeLoader, id="libyaml"))


@pytest.fixture(params=LOADERS)
def loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The parser that is used: with libyaml, and without."""
    monkeypatch.setattr(yamltext, "_Loader", request.param)
    return request.param


def refused(text: str) -> str:
    """Why the text is not read."""
    with pytest.raises(BadYaml) as caught:
        read_yaml(text)
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: 1\nb: [x, 'y', \"z\", 1.5, ~, null, yes, 0x1f, 017, 1_000, 1:30, .inf]\n",
        "- a: |\n    two\n    lines\n  b: >\n    one\n    line\n- 2024-02-29\n- 2024-02-29T12:00:00Z\n- '2024-02-29'\n",
        "'<<': 1\n",
        "=: 1\n",
        "? a\n: - b\n? c\n",
        "[a: 1, b, {c}]",
        "---\na: 1\n...\n",
        "%YAML 1.1\n---\n- x\n",
        "text",
        "---\n",
        "a:\nb: ''\nc: {}\nd: []\n",
    ],
)
def test_it_is_read_as_pyyaml_reads_it(loader: Any, text: str) -> None:
    assert read_yaml(text) == yaml.load(text, Loader=loader)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "the job file is empty"),
        ("# nothing\n", "the job file is empty"),
        ("a: 1\n---\nb: 2\n", "the YAML holds more than one document (line 2)"),
        ("a: !!str x\n", "YAML tags are not read (line 1)"),
        ("a: ! x\n", "YAML tags are not read (line 1)"),
        ("- !!python/object/apply:os.system ['true']\n", "YAML tags are not read (line 1)"),
        ("%TAG !e! tag:example.com,2000:\n---\na: 1\n", "YAML tags are not read (%TAG)"),
        ("a: 1\nb: 2\na: 3\n", "the field 'a' is given twice (line 3)"),
        ("a: 1\n'a': 2\n", "the field 'a' is given twice (line 2)"),
        ("<<: 1\n'<<': 2\n", "the field '<<' is given twice (line 2)"),
        ("[x]: 1\n", "the name of a field is a list or a mapping (line 1)"),
        ("a:\n  &x {b: 1}\n", "YAML anchors and aliases are not read; write the value out (line 2)"),
        ("a: &x 1\n", "YAML anchors and aliases are not read; write the value out (line 1)"),
        ("&x a: 1\n", "YAML anchors and aliases are not read; write the value out (line 1)"),
        ("a: 1\nb: *x\n", "YAML anchors and aliases are not read; write the value out (line 2)"),
        ("a: 1\n<<: *x\n", "YAML anchors and aliases are not read; write the value out (line 2)"),
        ("[" * 17 + "]" * 17, "the YAML nests deeper than 16 (line 1)"),
        ("a: 2024-02-31\n", "a number or date in the YAML does not exist; put it in quotes if it is text"),
        ("a: 1" + ":59" * 3000 + "\n", "a number in the YAML has thousands of digits (line 1)"),
        ("a: 0x" + "f" * 5000 + "\n", "a number in the YAML has thousands of digits (line 1)"),
        ("password: hunter2: x\n", "not YAML: mapping values are not allowed"),
        ("password: 'hunter2\n", "not YAML: found unexpected end of stream"),
        ("a: hunter2\x00\n", "not YAML: it holds characters that YAML does not allow"),
    ],
)
def test_what_is_not_read_is_said_without_its_values(loader: Any, text: str, said: str) -> None:
    message = refused(text)
    assert message.startswith(said)
    assert "hunter2" not in message


def test_depth_within_the_limit_is_read(loader: Any) -> None:
    assert read_yaml("[" * 16 + "]" * 16) is not None


def test_the_merge_key_is_a_field_like_others(loader: Any) -> None:
    assert read_yaml("<<: {a: 1}\n") == {"<<": {"a": 1}}
    text = "vm_path: /DC0/vm/a\noutput_path: /x\n<<: {format: raw}\n"
    (entry,) = load_jobs(text, content_type="text/yaml", environ={})
    assert entry.error is not None
    assert entry.error.code == "job_unknown_field"


@pytest.fixture
def events(loader: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """One line for each event that is read, with at most 1,000 values allowed."""
    read: list[str] = []

    class Counting(loader):
        def get_event(self) -> Any:
            read.append("event")
            return super().get_event()

    monkeypatch.setattr(yamltext, "_Loader", Counting)
    monkeypatch.setattr(yamltext, "MAX_VALUES", 1000)
    return read


@pytest.mark.parametrize("text", ["- a\n" * 5000, "[" + "a," * 5000 + "]", "[" + "[]," * 5000 + "]"])
def test_too_many_values_are_refused_once_they_are_counted(events: list[str], text: str) -> None:
    message = refused(text)
    assert message == "the YAML holds more than 1000 values; write it as JSON, or as several files"
    assert len(events) <= 2 * 1000 + 5


def test_ten_lines_that_stand_for_a_billion_values_are_refused_at_the_first(events: list[str]) -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    assert refused("\n".join(lines)).endswith("(line 1)")
    assert len(events) < 10


@pytest.mark.timeout(20)
def test_names_for_tags_are_not_compared_with_each_other() -> None:
    assert "tags" in refused("".join(f"%TAG !a{n}! x:y\n" for n in range(200_000)) + "---\na: 1\n")


@pytest.mark.timeout(60)
@pytest.mark.skipif(not hasattr(yaml, "CSafeLoader"), reason="PyYAML without libyaml")
def test_the_largest_job_file_is_read() -> None:
    job = (
        "- vm_path: /DC0/vm/Folder/web-{0}\n  output_path: /exports/web-{0}\n  format: qcow2\n  compress: true\n "
        " options:\n    remove_cdrom: true\n"
    )
    entries = load_jobs("jobs:\n" + "".join(job.format(n) for n in range(10_000)), content_type="text/yaml", environ={})
    assert len(entries) == 10_000
    assert all(entry.error is None for entry in entries)


def test_one_text_is_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now: list[int] = []
    most: list[int] = []

    class Slow(yaml.SafeLoader):
        def get_event(self) -> Any:
            now.append(1)
            most.append(len(now))
            time.sleep(0.001)
            now.pop()
            return super().get_event()

    monkeypatch.setattr(yamltext, "_Loader", Slow)
    threads = [threading.Thread(target=read_yaml, args=("- a\n" * 20,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert max(most) == 1
