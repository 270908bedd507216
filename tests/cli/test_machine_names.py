"""Names of machines in completion: kept from the last list, offered without a login, one word each in every shell."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.shell_completion import CompletionItem
from hypothesis import given
from hypothesis import strategies as st

from hypersdk.cli import machinenames
from hypersdk.cli.app import program as hyper2kvm
from hypersdk.cli.programs.shells import Fish, Line, Zsh, escaped_for, read_line
from hypersdk.text import is_plain
from hypersdk.vsphere.endpoint import resolve_endpoint
from tests.support.cli.commandline import environment, program
from tests.support.cli.screen import Screen
from tests.support.cli.shell import Shell, login, small
from tests.support.inventories import inventory, machine
from tests.support.simulator import SimulatorFactory

pytestmark = pytest.mark.waits

BREAKS = " \t\n\"'@><=;|&(:"
HOSTILE = (
    "web 01",
    "a'b",
    'say "hi"',
    "back\\slash",
    "$(touch pwned)",
    "`touch pwned`",
    "$HOME",
    "*",
    "?[a-z]",
    "a;b|c&d>e<f",
    "wow!!",
    "host:port=x@y",
    "~root",
    "#no comment",
    "{a,b}",
    "100%",
    "a,b,c",
    "Büro – 監視",
    "tab\there",
    "line\nbreak",
    "\x1b[31mred",
    "\u202egnp",
    "zero\u200bwidth",
    "'",
    '"',
    "\\",
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home whose only list has machines with hostile names, and ``hyper2kvm`` on the path beside it."""
    folder = tmp_path / "h"
    (folder / "bin").mkdir(parents=True)
    script = folder / "bin" / "hyper2kvm"
    script.write_text(
        '#!/bin/sh\nif [ -z "$_HYPER2KVM_COMPLETE" ] && [ "$1" = export ]; then\n'
        '  for word; do printf "<%s>\\n" "$word"; done; exit\nfi\n'
        f'exec {sys.executable} -m hypersdk.cli.main "$@"\n'
    )
    script.chmod(0o755)
    machines = [machine(number, name=name) for number, name in enumerate(HOSTILE)]
    machinenames.remember({"HOME": str(folder)}, resolve_endpoint(ENV, None), machines)
    return folder


ENV: Mapping[str, str] = {"GOVC_URL": "vcenter.example.com", "GOVC_USERNAME": "admin@vsphere.local"}


def shell_env(home: Path) -> dict[str, str]:
    return environment(home, **{**ENV, "PATH": f"{home}/bin:{os.environ['PATH']}"})


def offered(home: Path, line: str) -> list[str]:
    """What bash is offered for ``line``, as the words that it inserts."""
    code = f"""
        eval "$(hyper2kvm completion bash)"
        COMP_LINE={shlex.quote(line)} COMP_POINT=${{#COMP_LINE}}
        handler=$(complete -p hyper2kvm | sed 's/.*-F \\([^ ]*\\).*/\\1/')
        $handler hyper2kvm '' ''
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(
        ["bash", "--norc", "-c", code], capture_output=True, env=shell_env(home), check=True, cwd=home
    )
    assert done.stderr == b""
    return [word for word in done.stdout.decode().splitlines() if word]


def evaluated(words: Sequence[str], cwd: Path) -> list[str]:
    """What bash makes of words that were inserted."""
    code = "printf '%s\\0' " + " ".join(words)
    done = subprocess.run(["bash", "--norc", "-c", code], capture_output=True, check=True, cwd=cwd)
    return done.stdout.decode().split("\0")[:-1]


def test_bash_gets_every_name_as_one_word(home: Path) -> None:
    words = offered(home, "hyper2kvm export ")
    assert sorted(evaluated(words, home)) == sorted(HOSTILE)
    assert all(map(is_plain, "".join(words))), "and the terminal gets nothing that could harm it"
    assert not (home / "pwned").exists()


@pytest.mark.parametrize("quote", ["'", '"'])
def test_bash_gets_them_inside_of_quotes_too(home: Path, quote: str) -> None:
    words = offered(home, f"hyper2kvm export {quote}")
    plain = [name for name in HOSTILE if all(map(is_plain, name))]
    assert sorted(evaluated([f"{quote}{word}{quote}" for word in words], home)) == sorted(plain)


@pytest.mark.parametrize(
    ("typed", "kept", "wanted"),
    [
        ("web", "", "web 01"),
        ("web\\ 0", "", "web 01"),
        ("'web '0", "", "web 01"),
        ("host:", "host:", "host:port=x@y"),
        ("host\\:po", "", "host:port=x@y"),
        ("host:port=", "host:port=", "host:port=x@y"),
        ("B", "", "Büro – 監視"),
        ("$'line\\012", "$'", "line\nbreak"),
        ("\\$H", "", "$HOME"),
    ],
)
def test_what_bash_keeps_and_what_is_inserted_is_the_name(home: Path, typed: str, kept: str, wanted: str) -> None:
    (word,) = offered(home, f"hyper2kvm export {typed}")
    assert evaluated([f"{kept}{word}{chr(39) if kept.endswith(chr(39)) else ''}"], home) == [wanted]


def test_machines_that_are_named_already_are_not_offered_again(home: Path) -> None:
    assert "web\\ 01" not in offered(home, "hyper2kvm export web\\ 01 ")
    assert offered(home, "hyper2kvm inspect web") == ["web\\ 01"]
    assert offered(home, "hyper2kvm export /DC0/vm/folder0/w") == ["/DC0/vm/folder0/web\\ 01"]
    assert offered(home, "hyper2kvm export --datacenter DC1 web") == []
    assert offered(home, "hyper2kvm export --url other.example.com w") == []
    assert offered(home, "hyper2kvm export --format=q") == ["qcow2"]
    assert offered(home, "hyper2kvm list w") == []


@given(st.text(), st.sampled_from(["", "'", '"', "$'"]))
def test_what_is_written_is_read_as_the_same_word(text: str, quote: str) -> None:
    text = text.replace("\0", "").replace("\ud800", "")
    text = text.encode(errors="ignore").decode()
    word = escaped_for(text, Line(quote=quote))
    if word is None:
        assert quote != "$'"
        return
    assert all(map(is_plain, word))
    closed = read_line(f"{quote}{word}{quote[-1:]}", "")
    assert closed.word == text
    opened = read_line(f"a b {quote}{word}", "")
    assert opened.words == ["a", "b"]
    assert opened.word == text or (quote == '"' and "!" in text) or not quote


@given(st.text())
def test_any_line_can_be_read(text: str) -> None:
    line = read_line(text, BREAKS)
    assert 0 <= line.kept <= len(line.word)


def test_a_script_of_an_earlier_version_gets_only_what_needs_no_quotes(home: Path) -> None:
    env = {
        **shell_env(home),
        "_HYPER2KVM_COMPLETE": "bash_complete",
        "COMP_WORDS": "hyper2kvm\nexport\n",
        "COMP_CWORD": "2",
    }
    done = subprocess.run(["hyper2kvm"], env=env, capture_output=True, check=True)
    assert done.stdout.decode().splitlines() == [f"plain,{name}" for name in sorted({"100%", "a,b,c"})]


def test_zsh_and_fish_get_plain_names_with_their_age(home: Path) -> None:
    env = {**shell_env(home), "COMP_WORDS": "hyper2kvm export ", "COMP_CWORD": "2"}
    plain = sorted(name for name in HOSTILE if all(map(is_plain, name)))
    done = subprocess.run(
        ["hyper2kvm"], env={**env, "_HYPER2KVM_COMPLETE": "zsh_complete"}, capture_output=True, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert lines[0::3] == ["plain"] * len(plain)
    assert lines[1::3] == [name.replace("\\", "\\\\").replace(":", "\\:") for name in plain]
    assert all(re.fullmatch(r"on, \d+ seconds? old", told) for told in lines[2::3])
    env = {**env, "_HYPER2KVM_COMPLETE": "fish_complete", "COMP_CWORD": ""}
    done = subprocess.run(["hyper2kvm"], env=env, capture_output=True, check=True)
    rows = [line.removeprefix("plain,").split("\t") for line in done.stdout.decode().splitlines()]
    assert [row[0] for row in rows] == plain
    assert all(re.fullmatch(r"on, \d+ seconds? old", row[1]) for row in rows)


def test_descriptions_stay_in_their_line() -> None:
    item = CompletionItem("a", help="b\nplain\nx\tc")
    assert Zsh(hyper2kvm.root, {}, "x", "X").format_completion(item).count("\n") == 2
    assert "\n" not in Fish(hyper2kvm.root, {}, "x", "X").format_completion(item)


@pytest.mark.slow
def test_tab_in_a_real_shell(home: Path) -> None:
    (home / "rc").write_text('PS1="$ "\neval "$(hyper2kvm completion bash)"\necho ready\n')
    with tempfile.TemporaryDirectory() as sockets:
        screen = Screen(Path(sockets) / "s", shell_env(home), (100, 40), ["bash", "--rcfile", str(home / "rc")])
        try:
            screen.wait_for("ready")
            for typed, shown, word in (
                ("we", "export web\\ 01 ", "web 01"),
                ('"we', 'export "web 01" ', "web 01"),
                ("'a'", None, None),
                ("line", "export $'line\\012break' ", None),
                ("host:po", "export host:port\\=x\\@y ", "host:port=x@y"),
                ("wow", "export wow\\!\\! ", "wow!!"),
            ):
                if shown is None:
                    continue
                screen.type("C-u")
                screen._run("send-keys", "-l", f"hyper2kvm export {typed}")
                screen.type("Tab")
                screen.wait_for(shown.rstrip())
                screen.type("Enter")
                screen.wait_for(f"<{word}>" if word else "<line")
        finally:
            screen.close()


# --- the list itself


def test_the_list_is_private_bounded_and_holds_no_secret(simulator: SimulatorFactory, tmp_path: Path) -> None:
    server = simulator(machines=(small("web 01", power="poweredOn"), small("web 02")), datacenters=1)
    shell = Shell(server, tmp_path)
    cache = tmp_path / "cache"
    for command in (("list", "--filter", "nothing"), ("export", "web*", "-o", "x", "--dry-run")):
        shutil.rmtree(cache, ignore_errors=True)
        shell(*command, XDG_CACHE_HOME=str(cache))
        (file,) = cache.rglob("*.json")
        assert file.parent == cache / "hypersdk" / "machines"
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        facts = json.loads(file.read_text())
        assert set(facts) == {"server", "account", "read_at", "machines"}
        assert ["web 01", "/Amsterdam/vm/web 01", "on"] in facts["machines"], facts
        assert login(server, tmp_path)["GOVC_PASSWORD"] not in file.read_text()
    shown = shell.good("completion", "--machines", XDG_CACHE_HOME=str(cache)).out
    assert re.search(r"\d+ seconds? old", shown)
    assert str(file) in shown
    assert (
        "1 list of machine names removed"
        in shell.good("completion", "--forget-machines", XDG_CACHE_HOME=str(cache)).out
    )
    assert list(cache.rglob("*.json")) == []
    assert "no list yet" in shell.good("completion", "--machines", XDG_CACHE_HOME=str(cache)).err


def names_of(environ: Mapping[str, str], *arguments: str) -> list[str]:
    """What bash is offered after ``arguments``; nobody waits for it for long."""
    line = " ".join(["hyper2kvm", *map(shlex.quote, arguments), ""])
    env = {**environment(Path("/")), **environ, "_HYPER2KVM_COMPLETE": "bash_complete", "HYPERSDK_LINE": line}
    done = subprocess.run(program(), env=env, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return [found.removeprefix("plain,") for found in done.stdout.splitlines() if found]


def test_one_list_for_each_server_and_account(tmp_path: Path) -> None:
    for number, (url, user) in enumerate((("a.example.com", "x"), ("a.example.com", "y"), ("b.example.com", "x"))):
        env = {"GOVC_URL": url, "GOVC_USERNAME": user, "HOME": str(tmp_path)}
        machinenames.remember(env, resolve_endpoint(env, None), [machine(number, name=f"vm{number}")])
        os.utime(
            next(iter(sorted(tmp_path.rglob("*.json"), key=os.path.getmtime, reverse=True))),
            (time.time() + number,) * 2,
        )
    env = {"HOME": str(tmp_path)}
    assert names_of({**env, "GOVC_URL": "a.example.com", "GOVC_USERNAME": "x"}, "export") == ["vm0"]
    assert names_of({**env, "GOVC_URL": "https://y@a.example.com/sdk"}, "export") == ["vm1"]
    assert names_of(env, "export", "--url", "b.example.com", "--username", "x") == ["vm2"]
    assert names_of(env, "export", "--url", "a.example.com") == ["vm1"], "no account: the newest list of the server"
    assert names_of(env, "export", "--url", "b.example.com", "--username", "nobody") == []
    assert names_of(env, "export") == [], "no server"


def test_completion_neither_logs_in_nor_reads_a_password_nor_hangs(home: Path) -> None:
    fifo = home / "fifo"
    os.mkfifo(fifo)
    config = home / "config.toml"
    config.write_text(
        f'[connection]\nurl = "vcenter.example.com"\nusername = "admin@vsphere.local"\npassword_file = "{fifo}"\n'
    )
    env = {"HOME": str(home)}
    names = names_of(env, "--config", str(config), "export")
    assert "web\\ 01" in names
    assert names_of({**env, **ENV, "GOVC_PASSWORD": str(fifo)}, "export") == names
    assert names_of({**env, **ENV}, "export", "--password-file", str(fifo)) == names
    assert names_of({**env, **ENV}, "export", "--thumbprint", "nonsense") == names
    config.write_text("nonsense = [")
    assert names_of(env, "--config", str(config), "export") == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"machines": 1}', '{"read_at": "x", "machines": []}', "[" * 100_000, "\udcff"]
)
def test_a_damaged_list_is_no_list(home: Path, text: str) -> None:
    (file,) = home.rglob("*.json")
    file.write_bytes(text.encode(errors="surrogateescape"))
    assert names_of({"HOME": str(home), **ENV}, "export") == []


def test_what_is_no_file_is_no_list(home: Path) -> None:
    (file,) = home.rglob("*.json")
    file.unlink()
    os.mkfifo(file)
    assert names_of({"HOME": str(home), **ENV}, "export") == []


def test_old_lists_are_not_used_and_removed(home: Path) -> None:
    (file,) = home.rglob("*.json")
    facts = json.loads(file.read_text())
    old = datetime.now(UTC) - machinenames.MAX_AGE - timedelta(minutes=1)
    file.write_text(json.dumps({**facts, "read_at": old.isoformat()}))
    assert names_of({"HOME": str(home), **ENV}, "export") == []
    os.utime(file, (old.timestamp(), old.timestamp()))
    other = resolve_endpoint({"GOVC_URL": "other.example.com"}, None)
    machinenames.remember({"HOME": str(home)}, other, [])
    assert not file.exists()


def test_the_number_of_lists_and_machines_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machinenames, "MAX_MACHINES", 10)
    env = {"HOME": str(tmp_path)}
    machines = inventory(30)
    for number in range(machinenames.MAX_LISTS + 4):
        machinenames.remember(env, resolve_endpoint({"GOVC_URL": f"vc{number}.example.com"}, None), machines)
    lists = machinenames.known(env)
    assert len(lists) == machinenames.MAX_LISTS
    assert {len(found.machines) for found in lists} == {10}
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".json"], "no partial files"


def test_a_folder_that_cannot_be_written_does_no_harm(simulator: SimulatorFactory, tmp_path: Path) -> None:
    shell = Shell(simulator(machines=(small("web01"),)), tmp_path)
    (tmp_path / "file").write_text("")
    done = shell.good("list", XDG_CACHE_HOME=str(tmp_path / "file"))
    assert "web01" in done.out
    assert "completion" not in done.err


@pytest.mark.parametrize(
    ("age", "told"),
    [
        (5, "5 seconds old"),
        (61, "1 minute old"),
        (3 * 3600, "3 hours old"),
        (50 * 3600, "2 days old"),
        (-60, "0 seconds old"),
    ],
)
def test_the_age_is_told_in_words(age: int, told: str) -> None:
    found = machinenames.KnownMachines("a", "b", datetime.now(UTC), [], Path("x"))
    assert replace(found, read_at=found.read_at - timedelta(seconds=age)).age() == told
