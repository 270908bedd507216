"""`export -f`: job files in all their forms, against a simulator."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hypersdk.cli import exporting
from hypersdk.migration.jobfile import load_jobs
from tests.support.cli.commandline import Run
from tests.support.cli.shell import Shell, small
from tests.support.simulator import SimulatorFactory

EXAMPLE = """\
name: "example-vm-export"
vm_path: "/data/vm/win2019-x86_64 - Clone"
output_path: "/tmp/export-test-vm"
options:
  parallel_downloads: 4
  remove_cdrom: true
  show_individual_progress: false
"""


@pytest.fixture
def shell(simulator: SimulatorFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shell:
    monkeypatch.setattr("hypersdk.simulator.inventory.DATACENTERS", ("data",))
    machines = (small("win2019-x86_64 - Clone"), small("two"), small("three"))
    return Shell(simulator(machines=machines), tmp_path)


def planned(run: Run) -> list[dict[str, Any]]:
    return [event for event in run.events if event["type"] == "plan"]


def test_the_example_of_the_documentation_works_as_it_is(shell: Shell, tmp_path: Path) -> None:
    job = tmp_path / "example-job.yaml"
    (entry,) = load_jobs(EXAMPLE, environ={})
    assert entry.definition is not None, entry.error
    assert entry.definition.folder == "/tmp/export-test-vm"
    # The folder of the example may hold an export of somebody who tried it.
    job.write_text(EXAMPLE.replace("/tmp/export-test-vm", str(tmp_path / "out")))
    (plan,) = planned(shell.good("export", "-f", job, "--dry-run", "--json"))
    assert (plan["machine"], plan["output_dir"], plan["format"]) == (
        "win2019-x86_64 - Clone",
        str(tmp_path / "out"),
        "ovf",
    )
    (result,) = [e for e in shell.good("export", "-f", job, "--json").events if e["type"] == "result"]
    assert result["main_file"].endswith(".ovf")
    shell.good("verify", tmp_path / "out")


@pytest.mark.parametrize("form", ["single", "jobs", "list"])
@pytest.mark.parametrize("syntax", ["json", "yaml"])
def test_one_job_several_and_a_bare_list(shell: Shell, tmp_path: Path, form: str, syntax: str) -> None:
    jobs = [{"vm_path": name, "output_path": str(tmp_path / name), "format": "raw"} for name in ("two", "three")]
    document: Any = {"single": jobs[0], "jobs": {"jobs": jobs}, "list": jobs}[form]
    text = json.dumps(document)
    if syntax == "yaml":
        import yaml

        text = yaml.safe_dump(document)
        assert not text.startswith(("{", "[")), "block style, not JSON"
    plans = planned(shell.good("export", "-f", "-", "--dry-run", "--json", stdin=text))
    assert [plan["machine"] for plan in plans] == (["two"] if form == "single" else ["two", "three"])
    assert {plan["format"] for plan in plans} == {"raw"}


def test_a_wrong_job_does_not_stop_the_others(shell: Shell, tmp_path: Path) -> None:
    jobs = [{"vm_path": "two", "output_path": str(tmp_path / "two")}, {"vm_path": "three", "outptu_path": "/tmp/x"}]
    done = shell("export", "-f", "-", "--json", stdin=json.dumps(jobs))
    assert done.status == 10
    assert [e["machine"] for e in done.events if e["type"] == "result"] == ["two"]
    (error,) = [e for e in done.events if e["type"] == "error" and "machine" in e]
    assert (error["machine"], error["code"]) == ("job 2", "job_unknown_field")
    assert "outptu_path" in error["message"]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)
GOOD = {"vm_path": "two", "output_path": "/tmp/x"}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        (json.dumps({**GOOD, "colour": "red"}), "job_unknown_field", "colour"),
        (json.dumps({**GOOD, "options": {"enable_pipelin": True}}), "job_unknown_field", "enable_pipelin"),
        (json.dumps({**GOOD, "options": {"enable_pipeline": True}}), "unsupported_option", "enable_pipeline"),
        (json.dumps({**GOOD, "options": {"libvirt_integration": True}}), "unsupported_option", "libvirt_integration"),
        (json.dumps({**GOOD, "kind": "migrate", "to": "kvm1"}), "unsupported_option", "the kind 'migrate'"),
        (json.dumps({**GOOD, "format": "vhdx"}), "job_invalid", "format"),
        (json.dumps({"vm_path": "two"}), "job_invalid", "output_path"),
        (BOMB, "job_unreadable", ""),
        ("a: !!python/object/apply:os.system ['true']\n", "job_unreadable", ""),
        ("vm_path: [", "job_unreadable", ""),
        ("", "job_unreadable", ""),
        ("[" * 200, "job_unreadable", ""),
    ],
)
def test_what_is_wrong_in_a_job_file_is_named(shell: Shell, text: str, code: str, said: str) -> None:
    done = shell("export", "-f", "-", "--json", stdin=text)
    assert (done.status, done.error["code"]) == (2, code), done.out
    assert said in done.error["message"]


def test_switched_off_options_and_older_methods_are_accepted(shell: Shell, tmp_path: Path) -> None:
    job = {
        "vm_path": "two",
        "output_dir": str(tmp_path / "x"),
        "export_method": "govc",
        "options": {"enable_pipeline": False, "libvirt_integration": False, "compress_level": 6},
    }
    done = shell.good("export", "-f", "-", "--dry-run", "--json", stdin=json.dumps(job))
    (warning,) = [event for event in done.events if event["type"] == "warning"]
    assert "govc" in warning["message"]


def test_flags_that_the_file_decides_are_refused_and_others_count(shell: Shell, tmp_path: Path) -> None:
    text = json.dumps({**GOOD, "output_path": str(tmp_path / "x")})
    refused = shell("export", "-f", "-", "--format", "raw", "--json", stdin=text)
    assert refused.status == 2
    assert "--format" in refused.error["message"]
    assert shell("export", "-f", "-", "--resume", "--json", stdin=text).error["code"] == "nothing_to_resume"
    assert shell("export", "-f", "-", "--resume", "--discard", "--json", stdin=text).status == 2


def test_run_flags_and_configured_retries_reach_the_jobs(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    make_plans = exporting.make_plans

    def spy(cli: Any, session: Any, specs: Any, machines: Any, settings: Any) -> Any:
        seen.extend(spec.retries for spec in specs)
        return make_plans(cli, session, specs, machines, settings)

    monkeypatch.setattr(exporting, "make_plans", spy)
    config = tmp_path / "c.toml"
    config.write_text("[export]\nretries = 7\n")
    text = json.dumps({**GOOD, "output_path": str(tmp_path / "x")})
    shell.good("export", "-f", "-", "--dry-run", stdin=text)
    shell.good("export", "-f", "-", "--dry-run", "--config", config, stdin=text)
    shell.good("export", "-f", "-", "--dry-run", "--config", config, "--retries", "0", stdin=text)
    config.write_text("[export]\nretries = 0\n")
    shell.good("export", "-f", "-", "--dry-run", "--config", config, stdin=text)
    assert seen == [3, 7, 0, 0]


def test_a_job_with_an_endpoint_of_its_own(shell: Shell, tmp_path: Path) -> None:
    server = shell.server
    part = {"server": server.url, "username": server.username, "password": server.password, "insecure": True}
    text = json.dumps({**GOOD, "output_path": str(tmp_path / "x"), "vcenter": part})
    nowhere = {"GOVC_URL": "", "GOVC_USERNAME": "", "GOVC_PASSWORD": "", "GOVC_INSECURE": ""}
    done = shell.good("export", "-f", "-", "--dry-run", "--json", stdin=text, **nowhere)
    assert planned(done)[0]["machine"] == "two"
    assert server.password not in done.out + done.err


@pytest.mark.parametrize(("make", "said"), [(None, "No such file"), (b"\xff\xfe\x00", "not UTF-8")])
def test_a_file_that_cannot_be_read(shell: Shell, tmp_path: Path, make: bytes | None, said: str) -> None:
    job = tmp_path / "job.yaml"
    if make is not None:
        job.write_bytes(make)
    done = shell("export", "-f", job, "--json")
    assert done.status == 2
    assert said in done.error["message"]
    assert done.error["message"].count(str(job)) == 1


def test_job_and_password_cannot_share_standard_input(shell: Shell) -> None:
    done = shell("export", "-f", "-", "--password-stdin", "--json", stdin="x\n")
    assert "standard input" in done.error["message"]
