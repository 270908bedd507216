"""What an administrator does to the state: settings, users, tokens, backup, restore, keys."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
import tomllib
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from hypersdk.access.access import Access
from hypersdk.access.roles import Role
from hypersdk.access.vault import Vault, known_key
from hypersdk.cli.hypervisord.app import program
from hypersdk.jobs.secrets import JOB_PASSWORD
from hypersdk.jobs.settings import DaemonSettings
from hypersdk.jobs.store import JobStore
from hypersdk.jobs.supervisor import one_daemon
from hypersdk.secret import Secret
from hypersdk.state.database import Database
from hypersdk.state.tables import jobs
from tests.support.cli.hypervisord import hypervisord
from tests.support.databases import fresh_database
from tests.support.outages import SmallDisk, spoil
from tests.support.services import running_services

PLANTED = "planted-7Kd2"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state with a job that has a password of its own."""
    with_password(tmp_path)
    return tmp_path / "state"


def with_password(folder: Path, **settings: Any) -> None:
    """Makes it in ``folder``, with a user."""
    definition = {
        "vm_path": "a",
        "output_path": f"{folder}/exports/a",
        "vcenter": {"server": "192.0.2.1", "username": "u", "password": PLANTED},
    }
    with running_services(folder, **settings) as services:
        assert services.service.submit(json.dumps(definition), "application/json", None).rejected == ()
        services.access.users.create("ops", Role.OPERATOR, Secret("correct horse battery"))


def passwords(state: Path) -> list[str]:
    """The sealed passwords of all jobs, opened."""
    settings = DaemonSettings(state_dir=state)
    database = Database.open(settings.url)
    try:
        vault = Vault.load(settings.state_dir, settings.key_file, {}, database)
        with database.read() as connection:
            return [vault.open(row.secret, JOB_PASSWORD).reveal() for row in connection.execute(jobs.select())]
    finally:
        database.close()


def test_show_config_prints_what_can_be_read_again(tmp_path: Path) -> None:
    file = tmp_path / "hypervisord.toml"
    file.write_text('addr = "localhost:9000"\nworkers = 3\nexport_roots = ["/srv/images"]\n')
    done = hypervisord("--config", file, "--show-config", "-workers", "5", "-role", "api", home=tmp_path)
    settings = tomllib.loads(done.out)
    assert (settings["addr"], settings["workers"], settings["export_roots"], settings["roles"]) == (
        "localhost:9000",
        5,
        ["/srv/images"],
        ["api"],
    )
    file.write_text(done.out)
    assert hypervisord("--config", file, "--show-config", home=tmp_path).out == done.out


def test_an_unknown_key_is_an_error_that_names_it(tmp_path: Path) -> None:
    file = tmp_path / "hypervisord.toml"
    file.write_text("workrs = 3\n")
    done = hypervisord("--config", file, "--show-config", home=tmp_path)
    assert done.status == 2
    assert "workrs" in done.err
    assert "workers" in done.err


def test_a_password_of_the_database_is_no_flag_and_is_never_shown(tmp_path: Path) -> None:
    url = "postgresql://u:planted-db@db.example.com/x"
    refused = hypervisord("--database", url, "--show-config", home=tmp_path)
    assert refused.status == 2
    assert "database_password_in_argv" in refused.err
    shown = hypervisord("--show-config", home=tmp_path, env={"HYPERVISORD_DATABASE_URL": url})
    assert "db.example.com" in shown.out
    assert "planted-db" not in shown.out + refused.err + refused.out


@pytest.mark.parametrize(
    ("flags", "code"),
    [
        (("-addr", "0.0.0.0:0"), "tls_required"),
        (("-addr", "0.0.0.0:0", "--no-auth"), "no_auth_public"),
        (("--no-auth", "--allow-host", "x.example.com"), "no_auth_public"),
        (("--allow-host", "x.example.com:443"), "daemon_config"),
        (("-addr", "nonsense"), "listen_address"),
        (("--tls-cert", "/x"), "daemon_config"),
        (("--process", "cook"), "usage"),
        (("serve",), "usage"),
    ],
)
def test_what_can_never_start_is_told_at_once(tmp_path: Path, flags: tuple[str, ...], code: str) -> None:
    done = hypervisord(*flags, home=tmp_path)
    assert done.status == 2
    assert f"{code} (exit status 2)" in done.err


def test_an_address_that_is_taken_is_told_at_once(tmp_path: Path) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        done = hypervisord("-addr", f"127.0.0.1:{other.getsockname()[1]}", home=tmp_path)
    assert done.status == 12, "not 2: with that, systemd does not try again"
    assert "cannot listen on 127.0.0.1" in done.err


@pytest.mark.parametrize("how", ["header", "truncated", "page"])
def test_a_damaged_state_is_told_at_once(tmp_path: Path, state: Path, how: str) -> None:
    spoil(state / "state.sqlite3", how)
    for command in (
        ("-addr", "localhost:0", "--no-auth", "--state-dir", state),
        ("user", "list", "--state-dir", state),
        ("backup", "--state-dir", state, tmp_path / "backup.tar"),
    ):
        done = hypervisord(*command, home=tmp_path)
        if command[0] == "backup" and done.status == 0:
            continue  # SQLite copies pages that it does not look into
        assert (done.status, "database_damaged (exit status 12)" in done.err) == (12, True), done.err


def test_a_state_that_cannot_be_written_is_told_at_once(tmp_path: Path, small_disk: SmallDisk) -> None:
    state = small_disk.folder / "state"
    assert hypervisord("migrate-db", "--state-dir", state, home=tmp_path).status == 0
    small_disk.read_only()
    for folder in (state, small_disk.folder / "new"):
        done = hypervisord("-addr", "localhost:0", "--no-auth", "--state-dir", folder, home=tmp_path)
        assert (done.status, "database_read_only (exit status 12)" in done.err) == (12, True), done.err
    done = hypervisord("user", "list", "--state-dir", state, home=tmp_path)
    assert (done.status, "database_read_only (exit status 12)" in done.err) == (12, True), done.err


def test_the_database_is_brought_up_to_date(tmp_path: Path) -> None:
    state = tmp_path / "new"
    assert "is up to date" in hypervisord("migrate-db", "--state-dir", state, home=tmp_path).out
    assert (state / "state.sqlite3").stat().st_mode & 0o777 == 0o600


def test_users_and_tokens_without_a_running_daemon(state: Path, tmp_path: Path) -> None:
    def run(*arguments: str, stdin: str = "") -> str:
        done = hypervisord(*arguments, "--state-dir", state, home=tmp_path, stdin=stdin)
        assert done.status == 0, done.err
        return done.out

    assert (
        run("user", "add", "eve", "--role", "viewer", "--password-stdin", stdin="correct horse staple\n")
        == "Added viewer eve\n"
    )
    assert [line.split()[0] for line in run("user", "list").splitlines()[1:]] == ["admin", "eve", "ops"]
    assert run("user", "disable", "eve") == "eve is disabled\n"
    assert run("user", "enable", "eve") == "eve may log in\n"
    assert (
        run("user", "passwd", "eve", "--password-stdin", stdin="another horse staple\n") == "eve has a new password\n"
    )
    token = run("token", "create", "cron", "--user", "eve", "--scope", "viewer").strip()
    database = Database.open(f"sqlite:///{state}/state.sqlite3")
    found = Access(database).tokens.use(Secret(token))
    database.close()
    assert found is not None
    assert found.name == "eve"
    assert hypervisord("user", "add", "x", "--state-dir", state, home=tmp_path).status == 2


def test_a_backup_is_restored_elsewhere_with_its_key_apart(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    done = hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    assert done.status == 0
    assert "Keep a copy of" in done.err
    assert file.stat().st_mode & 0o777 == 0o600
    assert PLANTED.encode() not in file.read_bytes()
    with tarfile.open(file) as archive:
        assert "vault.key" not in archive.getnames()
    new = tmp_path / "new"
    restored = hypervisord("restore", file, "--state-dir", new, home=tmp_path)
    assert restored.status == 0, restored.err
    assert "no key" in restored.err
    (new / "vault.key").write_bytes((state / "vault.key").read_bytes())
    (new / "vault.key").chmod(0o600)
    assert passwords(new) == [PLANTED]


def test_a_backup_with_its_key_restores_by_itself(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    assert hypervisord("backup", file, "--with-key", "--state-dir", state, home=tmp_path).status == 0
    assert hypervisord("backup", file, "--state-dir", state, home=tmp_path).status == 2
    assert hypervisord("restore", file, "--state-dir", tmp_path / "new", home=tmp_path).status == 0
    assert passwords(tmp_path / "new") == [PLANTED]


def test_a_state_is_replaced_only_when_asked_and_kept_beside(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    hypervisord("user", "disable", "ops", "--state-dir", state, home=tmp_path)
    refused = hypervisord("restore", file, "--state-dir", state, home=tmp_path)
    assert "state_exists" in refused.err
    assert "disabled" in hypervisord("user", "list", "--state-dir", state, home=tmp_path).out
    assert hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).status == 0
    assert "disabled" not in hypervisord("user", "list", "--state-dir", state, home=tmp_path).out
    assert len(list(state.glob("state.sqlite3.before-restore-*"))) == 1
    assert passwords(state) == [PLANTED]


def test_revisions_of_a_restored_state_are_behind_all_that_were_given_out(state: Path, tmp_path: Path) -> None:
    """A page that followed the changes up to one of them would miss what has the same number now."""
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    database = Database.open(f"sqlite:///{state / 'state.sqlite3'}")
    with database.write() as connection:
        given_out = database.revision(connection, 1_000_000)
    database.close()
    assert hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).status == 0
    assert not list(state.glob(".state.sqlite3.restoring*")), "nothing of the way there is left"
    database = Database.open(f"sqlite:///{state / 'state.sqlite3'}")
    assert JobStore(database).revision() > given_out
    database.close()


def test_a_damaged_backup_changes_nothing(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    whole = file.read_bytes()
    at = whole.index(b"SQLite format 3") + 5000
    for damaged in (
        whole[: len(whole) // 2],
        whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :],
        b"",
        b"no archive" * 100,
    ):
        file.write_bytes(damaged)
        done = hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path)
        assert (done.status, "backup_unreadable" in done.err) == (8, True), done.err
        assert sorted(path.name for path in state.glob(".*.restoring")) == []
    assert passwords(state) == [PLANTED]


def test_an_archive_cannot_write_elsewhere(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "evil.tar"
    about = tmp_path / "backup.json"
    about.write_text(json.dumps({"format": 1, "sha256": {"state.sqlite3": "0", "../evil": "0"}}))
    with tarfile.open(file, "w") as archive:
        archive.add(about, "backup.json")
        archive.add(about, "../evil")
    assert hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).status == 8
    assert not (tmp_path / "evil").exists()


def test_nothing_is_restored_below_a_running_daemon(state: Path, tmp_path: Path) -> None:
    file = tmp_path / "backup.tar"
    hypervisord("backup", file, "--state-dir", state, home=tmp_path)
    with one_daemon(state):
        assert "daemon_runs" in hypervisord("restore", file, "--force", "--state-dir", state, home=tmp_path).err
        assert "daemon_runs" in hypervisord("rotate-key", "--state-dir", state, home=tmp_path).err
        assert hypervisord("backup", tmp_path / "other.tar", "--state-dir", state, home=tmp_path).status == 0


def test_the_key_is_changed_and_the_old_one_opens_nothing_any_more(state: Path, tmp_path: Path) -> None:
    before = (state / "vault.key").read_text()
    done = hypervisord("rotate-key", "--state-dir", state, home=tmp_path)
    assert done.status == 0, done.err
    assert done.out.startswith("1 password encrypted with a new key")
    assert (state / "vault.key").read_text() != before
    assert (state / "vault.key.old").read_text() == before
    assert passwords(state) == [PLANTED]
    (state / "vault.key").write_text(before)
    assert "vault_wrong_key" in hypervisord("rotate-key", "--state-dir", state, home=tmp_path).err


def test_a_change_of_the_key_that_was_cut_off_is_finished(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (state / "vault.key").read_text()
    real = Path.replace

    def cut(self: Path, target: Path) -> Path:
        if self.name == "vault.key":
            raise OSError(5, "power failure")
        return real(self, target)

    monkeypatch.setattr(Path, "replace", cut)
    assert hypervisord("rotate-key", "--state-dir", state, home=tmp_path).status == 9
    monkeypatch.undo()
    assert (state / "vault.key").read_text() == before
    database = Database.open(f"sqlite:///{state}/state.sqlite3")
    wanted = known_key(database)
    database.close()
    done = hypervisord("rotate-key", "--state-dir", state, home=tmp_path)
    assert (done.status, "was completed" in done.out) == (0, True)
    assert wanted is not None
    assert passwords(state) == [PLANTED]


def test_a_key_from_elsewhere_is_changed_by_its_file(state: Path, tmp_path: Path) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (state / "vault.key").rename(credentials / "hypersdk-key")
    env = {"CREDENTIALS_DIRECTORY": str(credentials)}
    assert "key_elsewhere" in hypervisord("rotate-key", "--state-dir", state, home=tmp_path, env=env).err
    new = tmp_path / "new-key"
    new.write_text("ab" * 32)
    new.chmod(0o600)
    done = hypervisord("rotate-key", "--new-key", new, "--state-dir", state, home=tmp_path, env=env)
    assert done.status == 0, done.err
    (state / "vault.key").write_text("ab" * 32)
    (state / "vault.key").chmod(0o600)
    assert passwords(state) == [PLANTED]


def test_a_lost_key_costs_the_passwords_and_nothing_else(state: Path, tmp_path: Path) -> None:
    (state / "vault.key").unlink()
    assert (
        "vault_key_lost"
        in hypervisord("rotate-key", "--new-key", tmp_path / "x", "--state-dir", state, home=tmp_path).err
    )
    assert hypervisord("reset-vault", "--state-dir", state, home=tmp_path).status == 2
    done = hypervisord("reset-vault", "--yes", "--state-dir", state, home=tmp_path)
    assert done.out.startswith("1 stored password deleted")
    assert "ops" in hypervisord("user", "list", "--state-dir", state, home=tmp_path).out


# --- PostgreSQL ------------------------------------------------------------------------------------------------------


def users_in(url: str) -> list[str]:
    database = Database.open(url)
    try:
        return [user.name for user in Access(database).users.list()]
    finally:
        database.close()


def test_a_postgresql_state_is_restored_into_an_empty_database(
    tmp_path: Path, postgres_url: str, postgres_server: str
) -> None:
    with_password(tmp_path, database_url=postgres_url)
    file, state = tmp_path / "backup.tar", tmp_path / "state"
    done = hypervisord("backup", file, "--with-key", "--state-dir", state, "--database", postgres_url, home=tmp_path)
    assert done.status == 0, done.err
    with tarfile.open(file) as archive:
        assert archive.getnames() == ["backup.json", "state.pgdump", "vault.key"]
    assert file.stat().st_mode & 0o777 == 0o600
    assert PLANTED.encode() not in file.read_bytes()
    with fresh_database(postgres_server) as other:
        new = tmp_path / "new"
        new.mkdir()
        done = hypervisord("restore", file, "--state-dir", new, "--database", other, home=tmp_path)
        assert done.status == 0, done.err
        assert users_in(other) == ["admin", "ops"]
        database = Database.open(other)
        try:
            vault = Vault.load(new, None, {}, database)
            with database.read() as connection:
                (row,) = connection.execute(jobs.select())
            assert vault.open(row.secret, JOB_PASSWORD).reveal() == PLANTED
        finally:
            database.close()


def test_a_postgresql_state_that_is_replaced_is_kept_as_a_dump(tmp_path: Path, postgres_url: str) -> None:
    with_password(tmp_path, database_url=postgres_url)
    file, state = tmp_path / "backup.tar", tmp_path / "state"
    flags = ("--state-dir", state, "--database", postgres_url)
    assert hypervisord("backup", file, *flags, home=tmp_path).status == 0
    database = Database.open(postgres_url)
    Access(database).users.create("later", Role.VIEWER, None)
    refused = hypervisord("restore", file, *flags, "--force", home=tmp_path)
    assert (refused.status, "state_used" in refused.err) == (2, True), "somebody is connected"
    database.close()
    assert "state_exists" in hypervisord("restore", file, *flags, home=tmp_path).err
    assert users_in(postgres_url) == ["admin", "later", "ops"]
    done = hypervisord("restore", file, *flags, "--force", home=tmp_path)
    assert done.status == 0, done.err
    assert users_in(postgres_url) == ["admin", "ops"]
    database = Database.open(postgres_url)
    assert JobStore(database).revision() > 2**32
    database.close()
    (kept,) = state.glob("state.pgdump.before-restore-*")
    assert kept.name in done.err
    assert kept.stat().st_mode & 0o777 == 0o600
    # What was kept is a backup as well: PostgreSQL's own tool puts it back.
    subprocess.run(
        ["pg_restore", "--clean", "--if-exists", "--single-transaction", f"--dbname={postgres_url}", kept], check=True
    )
    assert users_in(postgres_url) == ["admin", "later", "ops"]


def test_a_dump_that_does_not_fit_changes_nothing(tmp_path: Path, postgres_url: str) -> None:
    with_password(tmp_path, database_url=postgres_url)
    file, state = tmp_path / "backup.tar", tmp_path / "state"
    flags = ("--state-dir", state, "--database", postgres_url)
    assert hypervisord("backup", file, *flags, home=tmp_path).status == 0
    database = Database.open(postgres_url)
    with database.write() as connection:  # something of somebody else's hangs on a table of ours: it cannot be replaced
        connection.execute(sa.text("CREATE VIEW theirs AS SELECT name FROM users"))
    database.close()
    done = hypervisord("restore", file, *flags, "--force", home=tmp_path)
    assert (done.status, "dump_failed" in done.err, "theirs" in done.err) == (12, True, True), done.err
    assert users_in(postgres_url) == ["admin", "ops"]


def test_backups_go_back_to_where_they_are_from(state: Path, tmp_path: Path, postgres_url: str) -> None:
    file = tmp_path / "backup.tar"
    assert hypervisord("backup", file, "--state-dir", state, home=tmp_path).status == 0
    done = hypervisord("restore", file, "--state-dir", tmp_path / "new", "--database", postgres_url, home=tmp_path)
    assert (done.status, "backup_other_database" in done.err) == (2, True), done.err


def test_a_databases_password_is_no_argument_and_in_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    said = tmp_path / "said"
    (programs / "pg_dump").write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$@" "$PGPASSWORD" > {said}\necho no such host >&2\nexit 1\n'
    )
    (programs / "pg_dump").chmod(0o755)
    url = f"postgresql://h:{PLANTED}@db.example.com/h?sslmode=verify-full"
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    done = hypervisord("backup", tmp_path / "x.tar", home=tmp_path, env={"HYPERVISORD_DATABASE_URL": url})
    assert (done.status, "no such host" in done.err) == (12, True), done.err
    *arguments, password = said.read_text().splitlines()
    assert password == PLANTED
    assert "--dbname=user=h dbname=h host=db.example.com sslmode=verify-full" in arguments
    assert PLANTED not in " ".join(arguments) + done.err + done.out
    assert not (tmp_path / "x.tar").exists()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert (
        "postgresql_tools"
        in hypervisord("backup", tmp_path / "x.tar", home=tmp_path, env={"HYPERVISORD_DATABASE_URL": url}).err
    )


def test_all_commands_take_the_same_state_flags() -> None:
    import click

    ctx = click.Context(program.root, **program.root.context_settings)
    for name in ("migrate-db", "backup", "restore", "rotate-key", "reset-vault"):
        command = program.root.get_command(ctx, name)
        assert command is not None
        assert {"config", "state_dir", "database_url", "key_file"} <= {param.name for param in command.params}


# --- whose state -----------------------------------------------------------------------------------------------------


def test_no_state_is_made_by_looking_for_one(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    for command in (
        ("user", "list"),
        ("user", "add", "ops", "--no-password"),
        ("token", "create", "x"),
        ("rotate-key",),
        ("reset-vault", "--yes"),
        ("backup", tmp_path / "x.tar"),
    ):
        done = hypervisord(*command, "--state-dir", nowhere, home=tmp_path)
        assert done.status == 2, command
        assert "no state" in done.err, command
        assert not (nowhere / "state.sqlite3").exists(), command
    assert hypervisord("migrate-db", "--state-dir", nowhere, home=tmp_path).status == 0
    assert (
        hypervisord(
            "user", "add", "ops", "--role", "admin", "--no-password", "--state-dir", nowhere, home=tmp_path
        ).status
        == 0
    )


def test_root_is_asked_whether_it_means_the_services_state(
    tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tmp_path / "service"
    service.mkdir()
    monkeypatch.setattr("hypersdk.cli.hypervisord.daemon.SERVICE_STATE", service)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    file = tmp_path / "b.tar"
    assert hypervisord("backup", file, "--state-dir", state, home=tmp_path).status == 0
    for command in (
        ("user", "list"),
        ("backup", tmp_path / "c.tar"),
        ("restore", file),
        ("migrate-db",),
        ("rotate-key",),
        ("reset-vault", "--yes"),
    ):
        done = hypervisord(*command, home=tmp_path)
        assert (done.status, "which_state" in done.err) == (2, True), (command, done.err)
    assert not (tmp_path / "state" / "hypersdk").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_what_root_makes_in_a_services_folder_is_the_services(tmp_path: Path, state: Path) -> None:
    file, folder = tmp_path / "b.tar", tmp_path / "service"
    assert hypervisord("backup", file, "--with-key", "--state-dir", state, home=tmp_path).status == 0
    folder.mkdir()
    os.chown(folder, 64_123, 64_124)
    for command in (
        ("restore", file),
        ("user", "add", "other", "--no-password"),
        ("rotate-key",),
        ("restore", file, "--force"),
    ):
        done = hypervisord(*command, "--state-dir", folder, home=tmp_path)
        assert done.status == 0, done.err
    owners = {path.name: (path.stat().st_uid, path.stat().st_gid) for path in folder.iterdir()}
    assert {"state.sqlite3", "vault.key", "daemon.lock"} <= owners.keys()
    assert set(owners.values()) == {(64_123, 64_124)}, owners
