"""Endpoints, tokens, users, login and contexts by hyperctl."""

from __future__ import annotations

import errno
import socket
import sys
from pathlib import Path

import pytest

from hypersdk.access.roles import Role
from hypersdk.client.contexts import load_contexts
from hypersdk.secret import Secret
from hypersdk.simulator import Simulator
from tests.support.apiserver import Api, running_api
from tests.support.cli.commandline import terminal
from tests.support.cli.hyperctl import Hyperctl
from tests.support.simulator import SimulatorFactory

PASSWORD = "correct horse battery"


def add(ctl: Hyperctl, simulator: Simulator, *flags: str) -> list[str | Path]:
    file = ctl.home / "password"
    file.write_text(simulator.password + "\n")
    return ["endpoints", "add", "vc1", simulator.url, "--username", simulator.username, "--password-file", file, *flags]


def test_an_endpoint_whose_certificate_is_unknown_is_refused_with_its_print_and_taken_with_it(
    ctl: Hyperctl, simulator: SimulatorFactory
) -> None:
    server = simulator(vms=1)
    refused = ctl(*add(ctl, server), "--json")
    assert refused.status == 3
    shown = refused.error["sha256"]
    assert refused.error["code"] == "certificate_unknown"
    assert f"--pin {shown}" in refused.error["next_step"]
    assert "Added endpoint vc1" in ctl.ok(*add(ctl, server, "--pin", shown))
    assert ctl.ok("endpoints", "test", "vc1").startswith("vc1 works: ")
    listed = ctl.ok("endpoints", "list")
    assert "pinned" in listed
    assert server.password not in listed + str(ctl("endpoints", "list", "--json").events)
    assert ctl.ok("endpoints", "delete", "vc1") == "Deleted endpoint vc1\n"
    assert "No endpoint is registered" in ctl.ok("endpoints", "list")


def test_at_a_terminal_the_print_is_shown_and_the_password_asked_for(
    ctl: Hyperctl, simulator: SimulatorFactory
) -> None:
    server = simulator(vms=1, password=Secret("planted-9Xq"))
    command = [sys.executable, "-m", "hypersdk.cli.hyperctl.main", "endpoints", "add", "vc1", server.url]
    with terminal(command, {**ctl.env, "COLUMNS": "100"}) as shown:
        shown.wait_for("User name at")
        shown.type(server.username + "\n")
        shown.wait_for("Password of")
        shown.type(server.password + "\n")
        shown.wait_for("Type yes:")
        shown.type("yes\n")
        assert shown.finish() == 0
    assert "SHA-256" in shown.shown
    assert "Added endpoint vc1" in shown.shown
    assert server.password not in shown.shown


def test_a_wrong_password_of_an_endpoint_is_told_by_its_test(ctl: Hyperctl, simulator: SimulatorFactory) -> None:
    server = simulator(vms=1)
    ctl.ok(
        "endpoints", "add", "vc1", server.url, "--username", "x@y", "--password-stdin", "--trust-any", stdin="wrong\n"
    )
    done = ctl("endpoints", "test", "vc1", "--json")
    assert (done.status, done.error["code"]) == (4, "login_refused")


def test_tokens(api: Api, ctl: Hyperctl) -> None:
    token = ctl.ok("tokens", "create", "night run", "--scope", "operator", "--days", "1").strip()
    assert token.startswith("hst_")
    other = Hyperctl(api.url, ctl.home, token)
    assert "Found 0 job(s)" in other.ok("query")
    listed = ctl.ok("tokens", "list")
    assert "night run" in listed
    assert token not in listed
    (row,) = [line for line in listed.splitlines() if "night run" in line]
    assert ctl.ok("tokens", "revoke", row.split()[0]) == "Revoked 1 token(s)\n"
    assert other("query").status == 4
    file = ctl.home / "token"
    assert str(file) in ctl.ok("tokens", "create", "kept", "--to-file", file)
    assert file.stat().st_mode & 0o777 == 0o600
    assert ctl("tokens", "create", "kept", "--to-file", file).status == 9
    assert Hyperctl(api.url, ctl.home, None)("query", "--token-file", file).status == 0


def test_a_token_that_cannot_be_written_down_does_not_stay(ctl: Hyperctl, monkeypatch: pytest.MonkeyPatch) -> None:
    before = ctl("tokens", "list", "--json").events
    gone = ctl("tokens", "create", "x", "--to-file", ctl.home / "no" / "t", "--json")
    assert (gone.status, gone.error["code"]) == (9, "target_denied")
    file = ctl.home / "t"
    assert ctl("tokens", "create", "", "--to-file", file).status != 0  # the daemon refuses the label
    assert not file.exists()

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        done = ctl("tokens", "create", "x", "--to-file", file, "--json")
    assert (done.status, done.error["code"]) == (9, "target_denied")
    assert not file.exists()
    assert [one["id"] for one in ctl("tokens", "list", "--json").events] == [one["id"] for one in before]


def test_a_token_of_a_login_makes_tokens_that_end_with_it(api: Api, ctl: Hyperctl) -> None:
    user = api.services.access.users.create("short", Role.OPERATOR, None)
    text = api.services.access.tokens.create(user.id, "login", "operator", lifetime_s=86_400.0)[1].reveal()
    person = Hyperctl(api.url, ctl.home, text)
    assert person.ok("tokens", "create", "as long as mine").startswith("hst_")
    for more in (("--days", "90"), ("--forever",)):
        done = person("tokens", "create", "longer", *more, "--json")
        assert (done.status, done.error["code"]) == (4, "token_outlives")


def test_a_password_that_is_no_utf8_is_told(ctl: Hyperctl) -> None:
    done = ctl("users", "add", "ops", "--password-stdin", "--json", stdin=PASSWORD.encode() + b"\xfc\n")
    assert (done.status, done.error["code"]) == (2, "usage")
    assert PASSWORD not in done.out


def test_users(ctl: Hyperctl) -> None:
    assert (
        ctl.ok("users", "add", "ops", "--role", "operator", "--password-stdin", stdin=PASSWORD + "\n")
        == "Added operator ops\n"
    )
    assert ctl.ok("users", "role", "ops", "viewer") == "ops is viewer\n"
    assert ctl.ok("users", "disable", "ops") == "ops is disabled\n"
    assert "disabled" in ctl.ok("users", "list")
    assert ctl.ok("users", "enable", "ops") == "ops may log in\n"
    assert ctl.ok("users", "passwd", "ops", "--password-stdin", stdin=PASSWORD + "2\n") == "ops has a new password\n"
    assert ctl.ok("users", "delete", "ops") == "Deleted user ops\n"
    assert ctl("users", "add", "ops").status == 2  # no password and nobody to ask


def test_login_keeps_a_token_and_logout_revokes_it(api: Api, ctl: Hyperctl) -> None:
    ctl.ok("users", "add", "ops", "--role", "operator", "--password-stdin", stdin=PASSWORD + "\n")
    person = Hyperctl("", ctl.home, None)
    env = {key: value for key, value in person.env.items() if key != "HYPERVISORD_URL"}
    wrong = person(
        "login", api.url, "--username", "ops", "--password-stdin", stdin="wrong wrong\n", env={"HYPERVISORD_URL": ""}
    )
    assert wrong.status == 4
    done = person("login", api.url, "--username", "ops", "--password-stdin", "--name", "site-a", stdin=PASSWORD + "\n")
    assert done.out == f"Logged in to {api.url} as ops (operator); context site-a\n"
    path = ctl.home / "config" / "hypersdk" / "contexts.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert PASSWORD not in path.read_text()
    assert "Found 0 job(s)" in person("query", env=env).out
    assert "site-a" in person("contexts", "list").out
    token = load_contexts(path).get("site-a").token
    assert token is not None
    assert person("logout").out == f"Logged out of {api.url}\n"
    assert person("query", "--context", "site-a", "--json").error["code"] == "unauthenticated"
    assert Hyperctl(api.url, ctl.home, token.reveal())("query").status == 4
    assert person("logout").status == 5


def test_logout_is_of_the_daemon_that_was_named(api: Api, ctl: Hyperctl) -> None:
    ctl.ok("users", "add", "ops", "--password-stdin", stdin=PASSWORD + "\n")
    person = Hyperctl("", ctl.home, None)
    path = ctl.home / "config" / "hypersdk" / "contexts.toml"
    assert person("contexts", "add", "other", "https://b.example.com", "--token-file", _token_file(ctl)).status == 0
    login = ("login", api.url, "--username", "ops", "--password-stdin", "--name")
    assert person(*login, "here", stdin=PASSWORD + "\n").status == 0
    for words, env in (
        (["--url", "https://c.example.com"], {}),
        (["--url", api.url, "--context", "other"], {}),
        ([], {"HYPERVISORD_URL": "https://c.example.com"}),
    ):
        done = person("logout", *words, "--json", env=env)
        assert (done.status, done.error["code"]) == (2, "usage")
    assert person("logout", "--url", "https://b.example.com").out == "Logged out of https://b.example.com\n"
    known = load_contexts(path).known
    assert (known["other"].token, known["here"].token is None) == (None, False)
    env = {"HYPERVISORD_URL": "https://c.example.com", "HYPERVISORD_TOKEN": "hst_wrong"}
    assert person("logout", "--context", "here", "--json", env=env).events == [{"context": "here", "revoked": True}]
    assert person(*login, "here", stdin=PASSWORD + "\n").status == 0
    assert person(*login, "again", stdin=PASSWORD + "\n").status == 0
    assert person("contexts", "use", "other").status == 0
    assert person("logout", "--url", api.url).status == 2  # which of the two?
    assert person("contexts", "use", "here").status == 0
    assert person("logout", "--url", api.url, "--json").events == [{"context": "here", "revoked": True}]


def test_logout_passes_over_a_context_whose_address_cannot_be_read(api: Api, ctl: Hyperctl) -> None:
    """Somebody wrote it by hand; it is no reason to keep another daemon's token."""
    person = Hyperctl("", ctl.home, None)
    path = ctl.home / "config" / "hypersdk" / "contexts.toml"
    for name, url in (("broken", "https://b.example.com"), ("here", api.url)):
        assert person("contexts", "add", name, url, "--token-file", _token_file(ctl)).status == 0
    path.write_text(path.read_text().replace("https://b.example.com", "ftp://b.example.com"))
    assert person("logout", "--url", api.url).out == f"Logged out of {api.url}\n"
    assert load_contexts(path).known["here"].token is None


def test_a_context_that_is_named_counts_more_than_the_environment(api: Api, ctl: Hyperctl) -> None:
    person = Hyperctl("http://127.0.0.1:1", ctl.home, None)
    assert person("contexts", "add", "here", api.url, "--token-file", _token_file(ctl)).status == 0
    assert person("query").status == 3
    assert person("query", "--context", "here").status == 0


def test_login_has_the_patience_that_was_asked_for(ctl: Hyperctl) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        done = Hyperctl("", ctl.home, None)(
            "login", url, "--timeout", "0.3", "--token-file", _token_file(ctl), "--json"
        )
    assert (done.status, done.error["code"]) == (3, "daemon_timeout")


def _token_file(ctl: Hyperctl) -> Path:
    file = ctl.home / "token"
    file.write_text(f"{ctl.token}\n")
    return file


def test_login_with_a_token_checks_and_keeps_it(api: Api, ctl: Hyperctl) -> None:
    file = ctl.home / "token"
    file.write_text(api.tokens["viewer"])
    person = Hyperctl("", ctl.home, None)
    assert "as test-viewer (viewer)" in person("login", api.url, "--token-file", file).out
    file.write_text("hst_wrong")
    assert person("login", api.url, "--token-file", file).status == 4
    assert person("query").status == 0
    assert person("logout").status == 0  # a token that was given is forgotten, not revoked
    assert ctl("query", env={"HYPERVISORD_TOKEN": api.tokens["viewer"]}).status == 0


def test_login_keeps_the_context_of_another_daemon_on_the_same_host(api: Api, ctl: Hyperctl) -> None:
    port = api.url.rpartition(":")[2]
    file = ctl.home / "token"
    file.write_text(api.tokens["viewer"])
    person = Hyperctl("", ctl.home, None)
    assert person("contexts", "add", "127.0.0.1", "http://127.0.0.1:1").status == 0
    first = person("login", api.url, "--token-file", file)
    assert f"context 127.0.0.1-{port}" in first.out
    assert f"127.0.0.1 is the context of http://127.0.0.1:1; this daemon is saved as 127.0.0.1-{port}." in first.err
    again = person("login", api.url, "--token-file", file, "--json")
    assert again.events[-1]["context"] == f"127.0.0.1-{port}"
    assert [(one["name"], one["current"]) for one in person("contexts", "list", "--json").events] == [
        ("127.0.0.1", False),
        (f"127.0.0.1-{port}", True),
    ]
    assert person("contexts", "remove", f"127.0.0.1-{port}").status == 0
    assert person("contexts", "add", f"127.0.0.1-{port}", "http://127.0.0.1:2").status == 0
    assert f"context 127.0.0.1-{port}-2\n" in person("login", api.url, "--token-file", file).out
    assert (
        "replaces that of http://127.0.0.1:2"
        in person("login", api.url, "--token-file", file, "--name", f"127.0.0.1-{port}").err
    )


def test_contexts(ctl: Hyperctl) -> None:
    person = Hyperctl("", ctl.home, None)
    assert "No daemon is saved" in person("contexts", "list").out
    assert person("contexts", "add", "a", "https://a.example.com", "-thumbprint", "AB" * 32).status == 0
    assert person("contexts", "add", "b", "http://localhost:1").status == 0
    assert person("contexts", "use", "b").out == "b is the current context\n"
    assert [(one["name"], one["current"], one["trust"]) for one in person("contexts", "list", "--json").events] == [
        ("a", False, "pinned"),
        ("b", True, "no TLS"),
    ]
    assert person("status").status == 3
    assert person("contexts", "remove", "b").status == 0
    for unused in ("--url", "--context", "--timeout"):
        assert person("contexts", "list", unused, "1").status == 2, "nothing is asked of a daemon"
    assert person("contexts", "use", "b").status == 5


def test_login_pins_a_certificate_on_a_persons_word(tmp_path: Path) -> None:
    with running_api(tmp_path, tls_self_signed=True) as api:
        api.services.access.users.create("ops", Role.VIEWER, Secret(PASSWORD))
        home = tmp_path / "home"
        home.mkdir()
        person = Hyperctl("", home, None)
        with terminal([sys.executable, "-m", "hypersdk.cli.hyperctl.main", "login", api.url], person.env) as shown:
            shown.wait_for("Type yes:")
            shown.type("yes\n")
            shown.wait_for("User name")
            shown.type("ops\n")
            shown.wait_for("Password of")
            shown.type(PASSWORD + "\n")
            assert shown.finish() == 0
        assert PASSWORD not in shown.shown
        assert "Found 0 job(s)" in person("query").out
        assert load_contexts(home / "config/hypersdk/contexts.toml").get("127.0.0.1").thumbprint
