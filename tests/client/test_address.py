"""Which daemon and which token: the order, and that no token goes further than it was meant to."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from hypersdk.cli.remedies import next_step
from hypersdk.client import address
from hypersdk.client.address import AddressOptions, find_target, listeners, normal_url
from hypersdk.client.contexts import Context, Contexts, contexts_path, load_contexts, save_contexts
from hypersdk.errors import AccessError, LookupFailed, TargetError, UsageError
from hypersdk.secret import Secret


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {
        "HOME": str(tmp_path),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "STATE_DIRECTORY": str(tmp_path / "state"),
    }


def remember(environ: dict[str, str], **known: Context) -> None:
    save_contexts(contexts_path(environ), Contexts(known, next(iter(known))))


def local_token(environ: dict[str, str], text: str = "hst_local") -> Path:
    path = Path(environ["STATE_DIRECTORY"], "admin.token")
    path.parent.mkdir()
    path.write_text(text + "\n")
    return path


def test_the_address_comes_from_the_first_place_that_names_it(environ: dict[str, str]) -> None:
    assert find_target(AddressOptions(), environ).url == "http://localhost:8080"
    remember(environ, site=Context("https://hypervisord.example.com"))
    assert find_target(AddressOptions(), environ).url == "https://hypervisord.example.com"
    environ["HYPERVISORD_URL"] = "http://127.0.0.1:9"
    assert find_target(AddressOptions(), environ).url == "http://127.0.0.1:9"
    assert find_target(AddressOptions(url="localhost:7"), environ).url == "http://localhost:7"


def test_the_token_comes_from_the_first_place_that_has_it(environ: dict[str, str], tmp_path: Path) -> None:
    def token() -> str | None:
        found = find_target(AddressOptions(token_file=file if file.exists() else None), environ).token
        return None if found is None else found.reveal()

    file = tmp_path / "token"
    assert token() is None
    local_token(environ)
    assert token() == "hst_local"
    remember(environ, here=Context("http://localhost:8080", Secret("hst_context")))
    assert token() == "hst_context"
    environ["HYPERVISORD_TOKEN"] = "hst_variable"
    assert token() == "hst_variable"
    file.write_text("hst_file\n")
    assert token() == "hst_file"


@pytest.mark.parametrize("text", ["hst_S3CR3T", "  hst_S3CR3T\n", "hst_S3CR3T\r\n"])
def test_white_space_around_a_token_is_not_part_of_it(environ: dict[str, str], text: str) -> None:
    assert find_target(AddressOptions(token=Secret(text)), environ).token == Secret("hst_S3CR3T")
    assert find_target(AddressOptions(), {**environ, "HYPERVISORD_TOKEN": text}).token == Secret("hst_S3CR3T")


@pytest.mark.parametrize(
    "text",
    ["hst_S3CR3T\nhst_S3CR3T", "hst_ S3CR3T", "hst_S3CR3Tä", "hst_S3CR3T\udce4", "hst_S3CR3T\x7f", "S3CR3T" * 1000],
)
@pytest.mark.parametrize("source", ["given", "file", "variable", "context"])
def test_what_is_no_token_is_told_without_it(environ: dict[str, str], tmp_path: Path, text: str, source: str) -> None:
    wanted = AddressOptions()
    if source == "given":
        wanted = AddressOptions(token=Secret(text))
    elif source == "file":
        wanted = AddressOptions(token_file=tmp_path / "token")
        (tmp_path / "token").write_bytes(text.replace("\n", " ").encode("utf-8", "surrogateescape"))
    elif source == "variable":
        environ["HYPERVISORD_TOKEN"] = text
    else:
        remember(environ, here=Context("http://localhost:8080", Secret(text.replace("\udce4", "ä"))))
    with pytest.raises(UsageError) as raised:
        find_target(wanted, environ)
    assert raised.value.code == "token_source"
    assert "S3CR3T" not in str(raised.value.as_dict())


def test_an_empty_token_that_was_given_is_told(environ: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "token").write_text("\nhst_second_line\n")
    for wanted in (AddressOptions(token=Secret(" \n")), AddressOptions(token_file=tmp_path / "token")):
        with pytest.raises(UsageError, match="is empty") as raised:
            find_target(wanted, environ)
        assert raised.value.code == "token_source"
    assert find_target(AddressOptions(), {**environ, "HYPERVISORD_TOKEN": " "}).token is None


def test_a_context_keeps_its_token_and_its_trust_to_its_own_address(environ: dict[str, str]) -> None:
    remember(environ, site=Context("https://a.example.com", Secret("hst_a"), thumbprint="ab" * 32))
    own = find_target(AddressOptions(url="https://a.example.com/"), environ)
    other = find_target(AddressOptions(url="https://b.example.com"), environ)
    assert (own.token, own.tls.thumbprint, own.context) == (Secret("hst_a"), "ab" * 32, "site")
    assert (other.token, other.tls.thumbprint, other.context) == (None, None, None)


def test_a_token_found_on_this_machine_stays_on_it(environ: dict[str, str]) -> None:
    local_token(environ)
    assert find_target(AddressOptions(url="https://hypervisord.example.com"), environ).token is None


def test_no_token_crosses_a_network_in_clear(environ: dict[str, str]) -> None:
    environ["HYPERVISORD_TOKEN"] = "hst_x"
    with pytest.raises(AccessError) as raised:
        find_target(AddressOptions(url="http://192.0.2.7:8080"), environ)
    assert raised.value.code == "token_over_plain_http"
    assert "hst_x" not in str(raised.value.as_dict())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs to give a file to another user")
def test_a_port_that_another_user_took_gets_no_token(environ: dict[str, str]) -> None:
    path = local_token(environ)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        os.chown(path, 12345, 12345)  # root listens: it may be the daemon, started by an administrator
        assert find_target(AddressOptions(url=f"http://127.0.0.1:{port}"), environ).token is not None
    child = os.fork()
    if child == 0:
        os.setuid(54321)
        os.execvp(
            "python3",
            ["python3", "-c", f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(60)"],
        )
    try:
        while not list(listeners(port)):
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        with pytest.raises(AccessError) as raised:
            find_target(AddressOptions(url=f"http://127.0.0.1:{port}"), environ)
        assert raised.value.code == "foreign_listener"
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)


def test_a_stray_token_does_not_hide_that_of_the_daemon(
    environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stray = local_token(environ, "hst_stray")
    own = tmp_path / ".local" / "state" / "hypersdk" / "admin.token"
    own.parent.mkdir(parents=True)
    own.write_text("hst_own\n")

    def check(_url: str, _owner: int) -> None:
        for error in refused:
            raise error

    refused = iter([AccessError("another user's port", code="foreign_listener")])
    monkeypatch.setattr(address, "_check_listener", check)
    assert find_target(AddressOptions(), environ).found_in == str(own)
    stray.write_text("\n")
    assert find_target(AddressOptions(), environ).token == Secret("hst_own")
    refused = iter(
        [AccessError("the first", code="foreign_listener"), AccessError("the second", code="foreign_listener")]
    )
    with pytest.raises(AccessError, match="the first"):
        find_target(AddressOptions(), environ)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://host",
        "http://",
        "http://user:secret@host",
        "https://host/api",
        "https://host?x=1",
        "http://[::1",
        "http://host:x",
    ],
)
def test_an_address_that_cannot_be_used_is_told_without_its_password(text: str) -> None:
    with pytest.raises(UsageError) as raised:
        normal_url(text)
    assert raised.value.code == "daemon_address"
    assert "secret" not in str(raised.value.as_dict())


def test_contexts_survive_writing_and_only_their_owner_reads_them(environ: dict[str, str]) -> None:
    path = contexts_path(environ)
    odd = Context("https://a.example.com", Secret('hst_"\\x7f\x7f'), "token-1", "/a b/ä.pem", insecure=True)
    save_contexts(path, Contexts({"a.b": odd, "c": Context("http://localhost:1")}, "c"))
    assert load_contexts(path) == Contexts({"a.b": odd, "c": Context("http://localhost:1")}, "c")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(UsageError) as raised:
        load_contexts(path)
    assert raised.value.code == "contexts_exposed"


@pytest.mark.parametrize(
    "text",
    [
        "[contexts.a]\n",
        "[contexts.a]\nurl='http://x'\nurll='y'\n",
        "current='b'\n",
        "x=1\n",
        "[contexts.a]\nurl=1\n",
        "token = hst_leak\n",
        "[contexts.a]\nurl='http://x'\ninsecure='yes'\n",
    ],
)
def test_a_bad_file_of_contexts_is_told_without_what_it_holds(environ: dict[str, str], text: str) -> None:
    path = contexts_path(environ)
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(UsageError) as raised:
        load_contexts(path)
    assert raised.value.code == "contexts_invalid"
    assert raised.value.__cause__ is None
    assert "hst_leak" not in str(raised.value.as_dict())


def test_an_unknown_context_is_told_with_those_that_are_known(environ: dict[str, str]) -> None:
    remember(environ, site=Context("https://a.example.com"))
    with pytest.raises(LookupFailed) as raised:
        find_target(AddressOptions(context="sit"), environ)
    assert raised.value.fields["known"] == ["site"]


def test_contexts_that_cannot_be_written_say_which_folder_it_is(tmp_path: Path) -> None:
    """A file in the place of the folder, which root meets too."""
    (tmp_path / "hypersdk").write_text("")
    with pytest.raises(TargetError) as caught:
        save_contexts(tmp_path / "hypersdk" / "contexts.toml", Contexts({}))
    assert caught.value.code == "target_denied"
    assert str(tmp_path / "hypersdk") in next_step(caught.value)
    assert "XDG_CONFIG_HOME" in next_step(caught.value)
