"""The command line on a ledger on disk: what is printed, what is done, and the exit codes."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from realm.cli import MODULES, main
from realm.wiring import Realm
from tests.realm.conftest import Answer

Run = Callable[..., Answer]
Submit = Callable[..., str]


def test_status_works_without_any_service(run: Run) -> None:
    answer = run("status")
    assert answer.code == 0
    assert "DIO: level 0" in answer.out
    assert "Services: none were started" in answer.out


def test_status_as_json_is_the_status_of_the_realm(run: Run, realm: Realm) -> None:
    found = run("status", "--json").json()
    expected = realm.status()
    assert found.keys() == expected.keys()
    assert (found["hero"], found["queue"], found["battle"]) == (expected["hero"], expected["queue"], None)


def test_global_options_may_stand_anywhere(run: Run) -> None:
    assert run("--json", "status").json()["hero"]["id"] == run("status", "--json").json()["hero"]["id"] == "dio"


def test_where_there_is_no_realm_it_says_how_to_make_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--home", str(tmp_path / "nowhere"), "status"]) == 1
    assert "realm up" in capsys.readouterr().err
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["quest", "nonsense"],
        ["quest", "move", "job_1"],
        ["quest", "make", "bin", "--level", "x"],
        ["quest", "add", "x", "--priority", "urgent"],
        ["status", "--home"],
        ["ledger", "best", "--metric", "beauty"],
    ],
)
def test_a_command_line_that_cannot_be_read_is_usage(run: Run, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "x").write_text("{}")
    words = [str(tmp_path / "x") if word == "x" and "add" in words else word for word in words]
    answer = run(*words)
    assert answer.code == 2
    assert len(answer.err.strip().splitlines()) == 1
    assert answer.out == ""


def test_a_noun_alone_shows_its_verbs(run: Run) -> None:
    answer = run("quest")
    assert answer.code == 2
    assert "retry" in answer.out


def test_an_unreachable_server_is_exit_code_three(run: Run) -> None:
    answer = run("--server", "http://127.0.0.1:1", "status")
    assert answer.code == 3
    assert "127.0.0.1:1" in answer.err
    assert len(answer.err.strip().splitlines()) == 1


def test_errors_as_json_carry_the_code(run: Run) -> None:
    answer = run("quest", "show", "job_none", "--json")
    assert answer.code == 1
    assert json.loads(answer.err)["error"]["code"] == "job_not_found"


def test_an_unexpected_error_is_one_line_and_its_story_is_kept(
    run: Run, realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode(self: Realm) -> None:
        raise ZeroDivisionError("the well is dry")

    monkeypatch.setattr(Realm, "status", explode)
    answer = run("status")
    assert answer.code == 1
    assert "the well is dry" in answer.err
    assert len(answer.err.strip().splitlines()) == 1
    assert "Traceback" in (realm.paths.logs / "cli.log").read_text()


def test_quests_are_listed_in_the_order_in_which_they_are_taken(run: Run, submit: Submit) -> None:
    submit("third", priority="low")
    submit("second")
    submit("first", priority="high")
    assert [job["name"] for job in run("quest", "list", "--json").json()] == ["first", "second", "third"]
    assert "first" in run("quest", "list").out


def test_a_quest_is_moved_cancelled_and_tried_again(run: Run, submit: Submit, realm: Realm) -> None:
    one, two = submit("one"), submit("two")
    assert run("quest", "move", two, "--before", one).code == 0
    assert [job.id for job in realm.vault.jobs.waiting()] == [two, one]
    assert run("quest", "move", one, "--priority", "high").code == 0
    assert [job.id for job in realm.vault.jobs.waiting()] == [one, two]
    assert run("quest", "cancel", one, "--dry-run").code == 0
    assert realm.vault.jobs.get(one).state == "queued"
    assert run("quest", "cancel", one).code == 2  # nobody is here to say yes
    assert realm.vault.jobs.get(one).state == "queued"
    assert run("quest", "cancel", one, "--yes").code == 0
    assert realm.vault.jobs.get(one).state == "cancelled"
    assert run("quest", "retry", one).code == 0
    assert realm.vault.jobs.get(one).state == "queued"
    assert "one" in run("quest", "show", one).out


def test_an_added_file_lies_whole_in_the_inbox_and_the_original_stays(run: Run, realm: Realm, tmp_path: Path) -> None:
    source = tmp_path / "words.jsonl"
    source.write_text('{"text": "a"}\n')
    assert run("quest", "add", str(source), "--priority", "high").code == 0
    answer = run("quest", "add", str(source), "--priority", "high", "--json")
    placed = sorted(path.name for path in (realm.paths.inbox / "high").iterdir())
    assert placed == ["words-2.jsonl", "words.jsonl"]
    assert answer.json()["name"] == "words-2.jsonl"
    assert all(path.read_text() == source.read_text() for path in (realm.paths.inbox / "high").iterdir())
    assert list(realm.paths.staging.iterdir()) == []


def test_an_empty_file_is_refused(run: Run, realm: Realm, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    assert run("quest", "add", str(tmp_path / "empty.jsonl")).code == 1
    assert list(realm.paths.inbox.iterdir()) == []


def test_a_made_quest_lies_in_the_inbox(run: Run, realm: Realm) -> None:
    answer = run("quest", "make", "bin", "--level", "2", "--count", "30", "--seed", "5")
    assert answer.code == 0
    (made,) = realm.paths.inbox.iterdir()
    assert made.name == "bin-L2-30-5.jsonl"
    rows = [json.loads(line) for line in made.read_text().splitlines()]
    assert len(rows) == 30
    levels = {row["metadata"]["level"] for row in rows}
    assert max(levels) == 2  # lower ones come along as a review, where the hero's recipe says so


def test_the_level_to_train_next_is_the_default(run: Run, realm: Realm, submit: Submit) -> None:
    assert run("quest", "make", "bin", "--dry-run", "--json").json()["level"] == 1
    submit("practice")
    claim = realm.vault.jobs.claim("test", 1e9, 30)
    assert claim is not None
    for step in (10, 20, 30):
        realm.vault.ledger.record_evaluation(
            claim.run.id,
            run_step=step,
            name="bin/L1/heldout",
            skill="bin",
            level=1,
            split="heldout",
            correct=9,
            total=10,
            details={},
            at=1.0 + step,
        )
    assert run("quest", "make", "bin", "--dry-run", "--json").json()["level"] == 2
    assert list(realm.paths.inbox.iterdir()) == []


def test_a_command_that_nobody_answers_says_so(run: Run, realm: Realm) -> None:
    answer = run("control", "pause", "--no-wait")
    assert answer.code == 0
    assert "waiting for the arena" in answer.out
    assert [command.verb for command in realm.vault.commands.open()] == ["pause"]


def test_settings_are_shown_with_their_source_and_without_passwords(run: Run, realm: Realm) -> None:
    realm.paths.config_yaml.write_text("tavern: {port: 9001}\nvault: {url: 'postgresql+psycopg://u:secret@h/d'}\n")
    values = {entry["key"]: entry for entry in run("config", "show", "--json").json()}
    assert values["tavern.port"]["value"] == 9001
    assert "config.yaml, line 1" in values["tavern.port"]["source"]
    assert values["arena.max_attempts"]["source"] == "default"
    assert "secret" not in run("config", "show").out
    realm.paths.config_yaml.write_text("tavern: {prot: 1}\n")
    answer = run("status")
    assert answer.code == 2
    assert "tavern.port" in answer.err


def test_the_schema_knows_every_section(run: Run) -> None:
    assert {"tavern", "arena", "vault", "weaver"} <= run("config", "schema").json()["properties"].keys()


def test_tokens_are_made_shown_once_and_revoked(run: Run, realm: Realm) -> None:
    made = run("token", "create", "laptop", "--scope", "read", "--scope", "operate")
    secret = made.out.strip()
    token = realm.vault.tokens.authenticate(secret)
    assert token is not None
    assert token.scopes == ["operate", "read"]
    assert secret not in run("token", "list").out
    assert run("token", "revoke", token.id, "--yes").code == 0
    assert realm.vault.tokens.authenticate(secret) is None


def test_events_tell_what_was_done(run: Run, submit: Submit) -> None:
    submit("first words")
    assert "first words" in run("events").out
    line = json.loads(run("events", "--json", "--tail", "1").out)
    assert line["kind"] == "job_queued"


def test_runs_and_checkpoints_may_be_none(run: Run) -> None:
    assert run("run", "list").out == "No runs yet.\n"
    assert run("ledger", "list").out == "No checkpoints yet.\n"
    assert run("ledger", "best").code == 1
    assert run("run", "show", "run_none").code == 1


def test_every_word_of_the_help_is_a_command(run: Run) -> None:
    help_text = run("--help").out
    for word in MODULES:
        assert word in help_text
        assert run(word, "--help").code == 0


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.EROFS, "Make it writable"), (errno.EACCES, "--home"), (errno.ENOSPC, "Free some space")],
)
def test_a_home_that_cannot_be_written_is_told_with_what_to_do(
    number: int, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "home" / "inbox"))

    monkeypatch.setattr(Path, "mkdir", fail)
    assert main(["--home", str(tmp_path / "home"), "up", "--port", "0"]) == 1
    told = capsys.readouterr().err
    assert words in told
    assert "cli.log" not in told
    assert "inbox" in told
