"""How failures are told, to people and to programs, and with which exit status."""

from __future__ import annotations

import io
import subprocess
from pathlib import Path

import pytest

from hypersdk import errors
from hypersdk.cli.batch import Failure
from hypersdk.cli.exporting import codes_of, show_failures
from hypersdk.cli.output import Output
from hypersdk.cli.programs.groups import RootGroup
from hypersdk.cli.report import report
from hypersdk.cli.state import Cli
from hypersdk.errors import HyperSDKError, PartlyFailed, Refused
from hypersdk.landing.planning import NO_DISK_IMAGES
from tests.support.cli.commandline import environment, program, run

FAMILIES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, HyperSDKError) and kind is not HyperSDKError
]


def outputs(*, json_lines: bool) -> tuple[Output, io.StringIO, io.StringIO]:
    out, err = io.StringIO(), io.StringIO()
    return Output(out, err, {}, json_lines=json_lines, stdin_is_tty=False), out, err


@pytest.mark.parametrize("kind", FAMILIES)
def test_every_family_has_its_status_in_both_forms(kind: type[HyperSDKError]) -> None:
    for json_lines in (False, True):
        output, out, err = outputs(json_lines=json_lines)
        assert report(output, kind("it failed", host="esx1.example.com")) == kind.exit_status
        told, silent = (out, err) if json_lines else (err, out)
        assert silent.getvalue() == ""
        assert "it failed" in told.getvalue()
        assert kind.default_code in told.getvalue()


def test_statuses_are_distinct() -> None:
    own = {kind: kind.exit_status for kind in FAMILIES if kind is not errors.TransientError}
    assert len(set(own.values())) == len(own)


def test_json_error_is_one_line_with_all_facts() -> None:
    output, out, _ = outputs(json_lines=True)
    report(output, errors.LookupFailed("two machines are called 'web'", candidates=["/DC/vm/a/web", "/DC/vm/b/web"]))
    assert out.getvalue().count("\n") == 1
    for fact in ("candidates", "/DC/vm/b/web", '"exit_status":5', '"type":"error"', '"next_step"'):
        assert fact in out.getvalue()


def test_candidates_are_listed_for_people() -> None:
    output, _, err = outputs(json_lines=False)
    report(output, errors.LookupFailed("two machines are called 'web'", candidates=["/DC/vm/a/web", "/DC/vm/b/web"]))
    assert "/DC/vm/a/web\n" in err.getvalue()


def test_one_finding_is_told_once() -> None:
    output, _, err = outputs(json_lines=False)
    finding = {"message": "a.vmdk is cut short", "code": errors.TRUNCATED_STREAM}
    report(output, errors.IntegrityError(finding["message"], code=finding["code"], findings=[finding]))
    assert err.getvalue().count("a.vmdk is cut short") == 1


def test_several_reasons_are_told_each_with_its_fix() -> None:
    reasons = [errors.Refused("it is suspended"), errors.Refused("it is encrypted")]
    output, _, err = outputs(json_lines=False)
    report(output, errors.Refused("two reasons", reasons=reasons))
    assert "it is suspended" in err.getvalue()
    assert "it is encrypted" in err.getvalue()


def test_control_characters_of_a_name_do_not_reach_the_terminal() -> None:
    output, _, err = outputs(json_lines=False)
    report(output, errors.LookupFailed("no machine is called 'a\x1b]0;pwned\x07b\u202e'"))
    assert not {"\x1b", "\x07", "\u202e"} & set(err.getvalue())


def test_a_print_stays_whole_however_narrow_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = ":".join(["AB"] * 32)
    monkeypatch.setattr("hypersdk.cli.output.PLAIN_WIDTH", 40)
    output, _, err = outputs(json_lines=False)
    report(output, errors.ConnectError("not trusted", next_step=f"Compare it, then pass --thumbprint {shown}"))
    assert shown in err.getvalue()


def test_a_bug_is_told_in_general_and_kept_in_a_crash_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("the inner detail")

    monkeypatch.setattr(RootGroup, "resolve_command", broken)
    result = run("list", "--json", env={"XDG_STATE_HOME": str(tmp_path)})
    assert result.status == 1
    assert result.error["code"] == errors.INTERNAL
    assert "the inner detail" not in result.out
    crash = Path(result.error["crash_file"])
    assert "the inner detail" in crash.read_text()
    assert crash.stat().st_mode & 0o077 == 0


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", '"$@" --help | true; echo "${PIPESTATUS[0]}"', "-", *program()],
        capture_output=True,
        text=True,
        env=environment(tmp_path, PYTHONUNBUFFERED="1"),
        check=True,
    )
    assert done.stdout.strip() in ("0", "141")  # 0 where all fitted into the pipe before it was closed
    assert done.stderr == ""


@pytest.mark.parametrize(
    "url",
    [
        "https://user:hunter2@vcenter.example.com/sdk",
        "user:hunter2@vcenter.example.com",
        "https://a@b:hunter2@vcenter.example.com",
        "https://user:hunter2#x@vcenter.example.com",
        "https://user:hunter2@[::1",
        "https://user:hunter2＠@x",
    ],
)
def test_the_password_in_a_url_flag_is_refused_and_not_shown(url: str) -> None:
    result = run("list", "--url", url, "--json")
    assert result.error["code"] == "password_in_argv"
    assert "hunter2" not in result.out + result.err


@pytest.mark.parametrize("flag", [["--password-stdin", "--password-file", "x"], ["--password-file", "/nonexistent"]])
def test_wrong_password_sources_are_usage_errors(flag: list[str]) -> None:
    result = run("list", "-u", "vcenter.example.com", "--username", "me", *flag, "--json")
    assert (result.status, result.error["code"]) == (2, "password_source")


def test_the_files_to_look_at_are_named() -> None:
    output, _, err = outputs(json_lines=False)
    report(output, errors.IntegrityError("the guest did not boot", screenshot="/srv/vm/web01/screenshot.png", log=""))
    assert "  screen  /srv/vm/web01/screenshot.png\n" in err.getvalue()
    assert "  log " not in err.getvalue()


def test_machines_that_failed_for_the_same_reason_are_told_together() -> None:
    output, _, err = outputs(json_lines=False)
    cli = Cli(output, {}, io.StringIO(), io.StringIO())
    same = [Failure(f"vm-{number}", Refused(f"'vm-{number}' is too old")) for number in range(4)]
    show_failures(cli, [*same, Failure("other", Refused("it has no disk", code=NO_DISK_IMAGES))])
    told = err.getvalue()
    assert "4 machines failed: refused" in told
    assert "vm-0, vm-1, vm-2, vm-3: is too old" in told
    assert "it has no disk" in told
    report(output, PartlyFailed("5 of 9 failed", failed=codes_of(same)))
    assert "refused: vm-0, vm-1, vm-2, vm-3" in err.getvalue()
