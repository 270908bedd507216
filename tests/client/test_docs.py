"""What the pages show works: each Python example is run against the daemon's API, with its paths made real."""

from __future__ import annotations

import os
import re
import subprocess
import threading
from pathlib import Path

import pytest

from hypersdk.jobs.claims import Unsaved
from hypersdk.jobs.states import JobEvent
from hypersdk.jobs.store import Filter
from tests.support.apiserver import Api
from tests.support.cli.hyperctl import hyperctl_of
from tests.support.pages import dead_links
from tests.support.tools import requires

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"


def examples(page: str, language: str = "python") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def work(api: Api, stop: threading.Event) -> None:
    """Completes whatever is submitted."""
    claims = api.claims()
    while not stop.wait(0.2):
        for job_id in api.services.jobs.ids(Filter()):
            if (claim := claims.claim(job_id, 1)) is not None:
                claims.save(Unsaved(claim, {"phase": "transferring", "percent_complete": 50.0}))
                claims.end(claim, JobEvent.FINISH, result={"files": ["web01-disk1.qcow2"]})


@pytest.mark.parametrize(
    ("page", "number"), [(page, at) for page in ("python-client.md", "api.md") for at in range(len(examples(page)))]
)
def test_an_example_runs(page: str, number: int, api: Api, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = tmp_path / "admin.token"
    token.write_text(api.tokens["admin"] + "\n")
    monkeypatch.setenv("HYPERVISORD_URL", api.url)
    monkeypatch.setenv("HYPERVISORD_TOKEN", api.tokens["admin"])
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    text = examples(page)[number]
    for shown, real in (
        ("/var/lib/hypersdk/exports", f"{api.folder}/exports"),
        ("/var/lib/hypersdk/admin.token", str(token)),
        ("http://localhost:8080", api.url),
        ("import requests", "import httpx as requests"),
        ("sleep(5)", "sleep(0.1)"),
        ("open(", "__import__('pathlib').Path("),
        (").read()", ").read_text()"),
    ):
        text = text.replace(shown, real)
    stop = threading.Event()
    worker = threading.Thread(target=work, args=(api, stop))
    worker.start()
    try:
        exec(compile(text, page, "exec"), {})
    finally:
        stop.set()
        worker.join()


def test_the_commands_of_the_pages_exist() -> None:
    """Every `hyperctl` and `hypervisord` line names a command and flags that there are."""
    import click

    from hypersdk.cli.hyperctl.app import program as hyperctl
    from hypersdk.cli.hypervisord.app import program as hypervisord

    roots = {"hyperctl": hyperctl.root, "hypervisord": hypervisord.root}
    seen = 0
    for page in ("daemon.md", "hyperctl.md"):
        for line in re.findall(r"^(?:hyperctl|hypervisord) .*$", (DOCS / page).read_text(), re.MULTILINE):
            words = line.partition("#")[0].split()
            names = {word.partition("=")[0] for word in words if word.startswith("-") and word != "-"}
            known: set[str] = set()
            command: click.Command | None = roots[words[0]]
            for word in words[1:]:
                assert command is not None
                known |= {name for param in command.params for name in (*param.opts, *(one[1:] for one in param.opts))}
                if isinstance(command, click.Group) and (inner := command.get_command(click.Context(command), word)):
                    command = inner
            assert command is not None
            known |= {name for param in command.params for name in (*param.opts, *(one[1:] for one in param.opts))}
            assert names <= known, line
            seen += 1
    assert seen > 25


@pytest.mark.parametrize(("page", "home"), [("api.md", ".local/state/hypersdk"), ("daemon.md", "var/lib/hypersdk")])
def test_the_calls_by_curl_are_answered(page: str, home: str, api: Api, tmp_path: Path) -> None:
    """The event stream aside, which does not end. The header's file is its owner's alone."""
    requires("curl")
    (tmp_path / home).mkdir(parents=True)
    (tmp_path / home / "admin.token").write_text(api.tokens["admin"] + "\n")
    (tmp_path / ".curlrc").write_text("fail\nsilent\nshow-error\n")
    blocks = [one for one in examples(page, "sh") if "curl " in one and "curl -N" not in one]
    text = "".join(blocks).replace("http://localhost:8080", api.url).replace("/var/lib/", f"{tmp_path}/var/lib/")
    done = subprocess.run(
        ["bash", "-euc", text],
        capture_output=True,
        text=True,
        timeout=60,
        env={"HOME": str(tmp_path), "PATH": os.environ["PATH"]},
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("{") >= text.count("curl ")
    assert (tmp_path / ".hypersdk-auth").stat().st_mode & 0o777 == 0o600


def test_no_page_puts_a_token_among_the_arguments_of_a_program() -> None:
    for page in [ROOT / "README.md", *DOCS.rglob("*.md"), *(ROOT / "packaging").rglob("*.*")]:
        for line in page.read_text().splitlines():
            assert not re.search(r"curl.*(Bearer|-H \"?\$|_TOKEN)|--token[ =]\S", line), (page, line)


def test_every_link_leads_to_a_file() -> None:
    assert dead_links(ROOT) == []


def test_the_pages_that_the_program_names_exist() -> None:
    named = {
        name for path in (ROOT / "src").rglob("*.py") for name in re.findall(r"docs/[\w/-]+\.md", path.read_text())
    }
    assert len(named) > 2
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_example_job_is_the_one_of_the_page_and_is_accepted(api: Api, tmp_path: Path) -> None:
    text = (DOCS / "example-job.yaml").read_text()
    assert text.partition("\n")[2] == examples("job-file.md", "yaml")[0]
    assert "hyperctl submit -file docs/example-job.yaml" in (ROOT / "README.md").read_text()
    file = tmp_path / "job.yaml"
    file.write_text(text.replace("/tmp/", f"{api.folder}/exports/"))
    assert "Submitted 1 job(s)\nAccepted Jobs: 1\n" in hyperctl_of(api, tmp_path / "home").ok("submit", "-file", file)
