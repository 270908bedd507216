"""Remedies are values: what carries them, how the faces say them, and that no text below a face names a flag."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Final, get_args

import pytest

import hypersdk
from hypersdk.cli import remedies as programs
from hypersdk.cli.batch import Failure
from hypersdk.cli.commands import import_, migrate
from hypersdk.cli.errorlist import load_all
from hypersdk.cli.plantable import reasons_of
from hypersdk.errors import CODES, HyperSDKError, Refused, SourceError, TransientError
from hypersdk.jobs import remedies as daemon
from hypersdk.migration.preflight import raise_if_any
from hypersdk.remedies import (
    KINDS,
    Advice,
    Discard,
    ExcludeDisk,
    First,
    FreeSpace,
    Look,
    Notice,
    Remedy,
    ReplaceInput,
    RestoreSource,
    Resume,
    Retry,
    SetOption,
    Subject,
    TrustCertificate,
    as_json,
    of_json,
)

SOURCES: Final = Path(hypersdk.__file__).parent
FACES: Final = ("cli", "simulator", "jobs/remedies.py", "api/front.py")
"""Where programs are spoken of by their flags: the simulator is a program of its own, the front page of the API says
what to type."""
PAGES: Final = ("api/page.py", "htmlpage.py")
"""Style sheets, whose variables look like flags."""
FLAG: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]+|(?<=[\s`(])-o\b|hyperctl [a-z ]*-[a-z]")
FLAG_OF_EXPORT: Final = re.compile(r"(?<![\w-])(--[a-z][a-z-]*|-o\b)|hyper2kvm (?:export|cleanup|status)")
OF_DAEMON: Final = re.compile(r"`(?:hyperctl|hypervisord) [^`]*`")


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text of a module that may be shown: no docstrings, and no single words, which are arguments."""
    silent = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in silent:
            text = node.value
            if isinstance(text, str) and " " in text.strip() and not text.startswith("#!"):  # a script is for a shell
                yield text


def below_the_faces() -> list[Path]:
    names = (path.relative_to(SOURCES) for path in sorted(SOURCES.rglob("*.py")))
    return [name for name in names if not str(name).startswith(FACES + PAGES)]


def test_no_text_below_the_faces_names_a_flag() -> None:
    files = below_the_faces()
    assert Path("migration/preflight.py") in files
    found = {
        f"{name}: {text}"
        for name in files
        for text in texts(ast.parse((SOURCES / name).read_text()))
        if FLAG.search(text)
    }
    assert found == set()


def test_the_check_of_the_texts_finds_what_it_looks_for() -> None:
    source = (
        'register("a", "b", "Run it with --resume.")\nf"{x} or choose another with -o"\nx = "`hyperctl query -all`"'
    )
    assert len([text for text in texts(ast.parse(source)) if FLAG.search(text)]) == 3


def test_a_registered_code_has_a_cause_and_a_remedy_that_every_face_can_say() -> None:
    load_all()
    for code, info in CODES.items():
        assert info.cause.endswith("."), code
        for text in (programs.next_step(info), programs.next_step(info, "hyperctl"), daemon.next_step(info)):
            assert text.endswith("."), (code, text)
            assert ".." not in text.replace("...", ""), (code, text)


def test_a_job_is_told_of_no_flag_of_the_program_that_exports() -> None:
    load_all()
    for code, info in CODES.items():
        if any(isinstance(remedy, Advice) and FLAG.search(remedy.text) for remedy in info.remedies):
            continue  # of a program itself: registered in cli
        said = OF_DAEMON.sub("", daemon.next_step(info)).replace("`hyper2kvm status`", "")
        assert not FLAG_OF_EXPORT.search(said), code


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_both_faces_know_every_kind(kind: type[Remedy]) -> None:
    remedy = example(kind)
    said = {programs.clause(remedy, "hyper2kvm"), programs.clause(remedy, "hyperctl"), daemon.clause(remedy)}
    assert said != {None}


@pytest.mark.parametrize("subject", get_args(Subject))
def test_both_faces_know_where_to_look(subject: Subject) -> None:
    assert programs.clause(Look(subject), "hyper2kvm")
    assert daemon.clause(Look(subject))


def example(kind: type[Remedy]) -> Remedy:
    values: dict[str, Any] = {
        "text": "mend it",
        "name": "format",
        "value": "qcow2",
        "limit": "streams",
        "key": "addr",
        "at": "jobs",
    }
    needed = [field.name for field in fields(kind) if field.default is MISSING]
    return kind(**{name: values[name] for name in needed})


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_remedy_survives_json(kind: type[Remedy]) -> None:
    remedy = example(kind)
    assert of_json(as_json([remedy])) == (remedy,)


def test_what_is_not_known_is_left_out_of_json() -> None:
    assert as_json([FreeSpace(), ExcludeDisk("Hard disk 2")]) == [
        {"kind": "free_space"},
        {"kind": "exclude_disk", "disk": "Hard disk 2"},
    ]


@pytest.mark.parametrize(
    "found",
    [None, [], "resume", [{"kind": "of_a_newer_version"}], [{"kind": "resume"}, 7], [{"kind": "set_option"}], [{}]],
)
def test_what_cannot_be_read_is_nothing(found: object) -> None:
    """Then the text counts that came with it."""
    assert of_json(found) is None


def test_a_long_text_from_another_host_is_cut() -> None:
    (read,) = of_json([{"kind": "advice", "text": "x" * 10_000, "more": 1}]) or ()
    assert isinstance(read, Advice)
    assert len(read.text) == 2000


def step(*remedies: Remedy) -> str:
    return programs.next_step(HyperSDKError("it failed", code="refused", remedies=remedies))


def test_a_preparation_belongs_to_the_remedy_after_it() -> None:
    assert step(First("check the path"), Resume()) == "Check the path, then run the export again with --resume."
    assert step(FreeSpace(3 << 30, "/srv/a"), Retry(), SetOption("compress", True)) == (
        "Free 3.0 GiB in /srv/a, then run the command again, or use --compress."
    )


def test_what_is_left_at_the_source_is_told_apart() -> None:
    assert step(Resume(), RestoreSource(snapshots=True)) == (
        "Run the export again with --resume. Run `hyper2kvm cleanup --drop-snapshots`, which undoes what is left"
        " at the source."
    )


def test_advice_stands_alone_as_it_was_written() -> None:
    assert step(Advice("qcow2 takes it."), Resume(), Advice("Keep it."), Discard()) == (
        "qcow2 takes it. Run the export again with --resume. Keep it. Start over with --discard."
    )


def test_what_a_face_has_no_way_to_do_is_left_out() -> None:
    error = HyperSDKError("it failed", code="refused", remedies=(Resume(), ReplaceInput()))
    assert "copy" in programs.next_step(error)
    assert daemon.next_step(error) == "Run `hyperctl retry ID` to continue."


def test_remedies_are_those_of_the_code_of_the_case_or_one_text() -> None:
    assert HyperSDKError("it failed", code="no_space").remedies == CODES["no_space"].remedies
    assert HyperSDKError("it failed", code="no_space", remedies=(Retry(),)).remedies == (Retry(),)
    assert HyperSDKError("it failed", code="no_space", next_step="Wait.").remedies == (Advice("Wait."),)


def test_remedies_that_came_with_another_code_are_told() -> None:
    first = SourceError("sent from its start", code="range_ignored")
    told = daemon.error_dict(TransientError(first.message, cause=first.cause, remedies=first.remedies))
    assert told["code"] == "transfer_interrupted"
    assert told["next_step"] == daemon.next_step(CODES["range_ignored"])
    assert told["remedies"] == as_json(CODES["range_ignored"].remedies)


def test_each_of_several_reasons_has_its_own() -> None:
    with pytest.raises(Refused) as caught:
        raise_if_any(
            "web-01",
            [
                Refused("shared", code="shared_disk"),
                Refused("busy", code="machine_busy"),
                Refused("none", code="no_disks"),
            ],
        )
    codes = ("shared_disk", "machine_busy", "no_disks")
    for face in (daemon, programs):
        told = face.error_dict(caught.value)
        steps = [face.next_step(CODES[code]) for code in codes]
        assert [reason["next_step"] for reason in told["reasons"]] == steps
        assert told["next_step"].splitlines() == [f"{code}: {step}" for code, step in zip(codes, steps, strict=True)]


def test_an_unknown_certificate_is_trusted_by_its_fingerprint() -> None:
    error = HyperSDKError("not trusted", code="certificate_unknown", remedies=(TrustCertificate("AB:CD"),))
    assert "`hyperctl endpoints add NAME URL --pin AB:CD`" in daemon.next_step(error)
    assert "--thumbprint AB:CD" in programs.next_step(error)
    assert "--pin AB:CD" in programs.next_step(error, "hyperctl")


def test_a_warning_says_what_helps_in_the_words_of_its_face() -> None:
    warning = Notice("an ISO image is inserted", (SetOption("remove_cdrom", True),))
    assert programs.warning_text(warning).startswith("an ISO image is inserted. Use --remove-cdrom")
    assert daemon.warning_text(warning).startswith("an ISO image is inserted. Set `options.remove_cdrom`")
    assert programs.warning_text(Notice("just so")) == "just so"


@pytest.mark.parametrize(
    "code", ["cancelled", "foreign_output", "partial_damaged", "nothing_to_resume", "guest_format_unfit"]
)
def test_a_migration_is_told_of_no_flag_that_it_lacks(code: str) -> None:
    """The same command continues it; its help has no --resume, --discard and --force."""
    load_all()
    error = Refused("'web01' cannot be migrated", reasons=[HyperSDKError("it failed", code=code)])
    (reason,) = programs.for_landing(error).reasons
    text = programs.next_step(reason)
    assert text.strip()
    assert not [flag for flag in ("--resume", "--discard", "--force", "--format") if flag in text]


def test_each_reason_of_a_skipped_machine_is_one_line() -> None:
    """So machines with the same reason stand together, whatever else is wrong with them."""
    reasons = [Refused("a domain is there", code="domain_exists"), Refused("a MAC address is taken", code="mac_taken")]
    load_all()
    told = list(reasons_of([Failure("web01", Refused("'web01' cannot be landed", reasons=reasons))]))
    assert [machine for machine, _ in told] == ["web01", "web01"]
    first, second = (text for _, text in told)
    assert first.startswith("a domain is there (domain_exists). ")
    assert second.startswith("a MAC address is taken (mac_taken). ")
    assert "\n" not in first + second


def test_the_remedies_of_a_landing_are_flags_of_migrate_or_import() -> None:
    """And where HyperSDK has an option for it, they name its flag."""
    load_all()
    known = {flag for command in (migrate.command, import_.command) for param in command.params for flag in param.opts}
    landing = {
        value
        for name, module in list(sys.modules.items())
        if name.startswith(("hypersdk.landing.", "hypersdk.guest.", "hypersdk.kvm.", "hypersdk.formats.guestdisk."))
        for value in vars(module).values()
        if isinstance(value, str) and value in CODES
    }
    named: dict[str, set[str]] = {}
    for code in landing:
        text = programs.next_step(programs.for_landing(HyperSDKError("it failed", code=code)))
        named[code] = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text))
        assert named[code] <= known, code
    for code, flag in {
        "network_unmapped": "--map",
        "no_hardware": "--cpus",
        "encrypted_without_key": "--key",
        "nothing_to_convert": "--no-convert",
        "domain_exists": "--name",
        "remote_needs_pool": "--pool",
        "no_virtio_win": "--disk-bus",
        "appliance_failed": "--acceleration",
    }.items():
        assert flag in named[code], code
