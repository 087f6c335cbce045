"""The intake: only complete files are taken, each becomes one job, and what is not taken stays or lies in failed/."""

from __future__ import annotations

import gzip
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arena.formats import GeneratorSpec, QuestSpec
from arena.gatekeepers import Policy
from arena.intake import Arrival, Intake, RefusedArrival, ScanResult, accept_upload, safe_name
from arena.intake.files import Identity, has_writer, release_lease, take_lease
from arena.intake.records import asks_again, guess_from_name, label
from realm.errors import ConflictError, DiskFullError, RefusedError
from realm.files import sha256_file
from realm.paths import RealmPaths
from realm.settings import ArenaSettings
from vault.records import Job, NewJob
from vault.store import Vault

SETTINGS = ArenaSettings(disk_floor_mib=0)


def rows(count: int = 5, start: int = 0, **metadata: Any) -> bytes:
    lines = []
    for n in range(start, start + count):
        row: dict[str, Any] = {
            "messages": [{"role": "user", "content": f"add {n}?"}, {"role": "assistant", "content": str(n + 1)}]
        }
        lines.append(json.dumps(row | ({"metadata": metadata} if metadata else {})) + "\n")
    return "".join(lines).encode()


class House:
    """A realm's folders, its vault, and an intake over both. `now` is moved by hand."""

    def __init__(self, home: Path, **options: Any) -> None:
        self.paths = RealmPaths(home).ensure()
        self.vault = Vault(f"sqlite:///{home}/vault.db", f"sqlite:///{home}/metrics.db")
        self.vault.ledger.ensure_hero("dio", name="DIO", trainer="sft", model="m", model_dir="m", config={})
        self.arrivals: list[Arrival] = []
        self.refusals: list[RefusedArrival] = []
        self.now = time.time()
        self.settings = options.pop("settings", SETTINGS)
        self.intake = self.new_intake(**options)

    def new_intake(self, **options: Any) -> Intake:
        return Intake(self.paths, self.settings, self.accept, refused=self.refuse, **options)

    def accept(self, arrival: Arrival) -> Job:
        self.arrivals.append(arrival)
        data = {"canonical_sha256": arrival.canonical_sha256, "rows": arrival.rows, "format": arrival.format}
        new = NewJob("dio", "sft", arrival.name, arrival.idem_key, priority=arrival.priority, data=[data])
        return self.vault.jobs.submit(new)[0]

    def refuse(self, refusal: RefusedArrival) -> Job:
        self.refusals.append(refusal)
        new = NewJob("dio", "sft", refusal.name, refusal.idem_key)
        return self.vault.jobs.submit(new, state="refused", reason={"code": refusal.code})[0]

    def drop(self, name: str, content: bytes | None = None, *, moved: bool = True, folder: str = "") -> Path:
        """Put a file into the inbox: moved in complete, or written just now."""
        target = self.paths.inbox / folder / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(rows() if content is None else content)
        stamp = self.now - 100 if moved else self.now
        os.utime(target, (stamp, stamp))
        return target

    def scan(self, after_s: float = 0.0, **options: Any) -> ScanResult:
        self.now += after_s
        return self.intake.scan(self.now, **options)

    def jobs(self, state: str = "queued") -> list[Job]:
        return list(self.vault.jobs.list((state,), limit=5000).items)

    def inbox(self) -> set[str]:
        return {str(p.relative_to(self.paths.inbox)) for p in self.paths.inbox.rglob("*") if not p.is_dir()}

    def failed(self) -> set[str]:
        return set(os.listdir(self.paths.failed))


@pytest.fixture
def make_house(tmp_path: Path) -> Iterator[Callable[..., House]]:
    made: list[House] = []

    def make(**options: Any) -> House:
        made.append(House(tmp_path / f"realm-{len(made)}", **options))
        return made[-1]

    yield make
    for house in made:
        house.vault.close()


@pytest.fixture
def house(make_house: Callable[..., House]) -> House:
    return make_house()


# Taking a file


def test_a_dropped_file_becomes_one_job_and_leaves_the_inbox(house: House) -> None:
    house.drop("train_bin_L7_5.jsonl")
    result = house.scan()
    assert [r.kind for r in result] == ["accepted"]
    (job,), (arrival,) = house.jobs(), house.arrivals
    assert (job.name, job.id) == ("train_bin_L7_5.jsonl", result.results[0].job.id if result.results[0].job else "")
    assert (arrival.rows, arrival.format, arrival.skill, arrival.level) == (5, "jsonl/messages", "bin", 7)
    assert (arrival.priority, arrival.source, arrival.hero) == ("normal", "inbox", "dio")
    assert house.inbox() == set()
    assert arrival.canonical_path == house.paths.objects / f"{arrival.canonical_sha256}.jsonl"
    assert sha256_file(arrival.canonical_path) == arrival.canonical_sha256
    assert sha256_file(arrival.object_path) == arrival.object_sha256
    assert os.stat(arrival.canonical_path).st_mode & 0o777 == 0o400
    assert os.listdir(house.paths.staging) == []
    assert house.scan(1).results == ()


def test_other_formats_are_kept_as_dropped_beside_their_canonical_rows(house: House) -> None:
    house.drop("a.csv", b"prompt,completion\n1+1,2\n")
    house.drop("b.jsonl.gz", gzip.compress(rows()))
    house.drop("c.txt", b"Once upon a time.\n")
    house.scan()
    suffixes = {a.name: (a.object_path.name.partition(".")[2], a.format) for a in house.arrivals}
    assert suffixes == {
        "a.csv": ("csv", "csv/prompt_completion"),
        "b.jsonl.gz": ("jsonl.gz", "jsonl.gz/messages"),
        "c.txt": ("txt", "text/text"),
    }
    assert all(a.object_path.exists() and a.canonical_path.exists() for a in house.arrivals)


def test_priority_folders_and_skill_from_the_rows(house: House) -> None:
    house.drop("x.jsonl", rows(skill="sy", level=2), folder="high")
    house.drop("y.jsonl", rows(3), folder="low")
    house.drop("z.jsonl", rows(4), folder="normal")
    house.scan()
    found = {a.name: (a.priority, a.source, a.skill, a.level) for a in house.arrivals}
    assert found == {
        "x.jsonl": ("high", "inbox/high", "sy", 2),
        "y.jsonl": ("low", "inbox/low", None, None),
        "z.jsonl": ("normal", "inbox/normal", None, None),
    }


@pytest.mark.parametrize("name", [".hidden.jsonl", "x.jsonl.part", "x.tmp", "x.jsonl~"])
def test_unfinished_names_are_not_looked_at(house: House, name: str) -> None:
    house.drop(name)
    result = house.scan()
    assert (result.results, result.arriving, house.inbox()) == ((), (), {name})


def test_links_folders_and_pipes_are_left_alone_and_said_once(house: House, tmp_path: Path) -> None:
    (tmp_path / "secret.jsonl").write_bytes(rows())
    (house.paths.inbox / "link.jsonl").symlink_to(tmp_path / "secret.jsonl")
    (house.paths.inbox / "replays").mkdir()
    (house.paths.inbox / "replays" / "game.slp").write_bytes(b"x")
    os.mkfifo(house.paths.inbox / "pipe.jsonl")
    result = house.scan()
    assert {(r.kind, r.name) for r in result} == {("ignored", n) for n in ("link.jsonl", "replays", "pipe.jsonl")}
    again = house.scan(10)
    assert again.results == ()
    assert {a.name for a in again.arriving} == {"link.jsonl", "replays", "pipe.jsonl"}
    assert house.jobs() == []


def test_a_linked_priority_folder_is_not_followed(house: House, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "x.jsonl").write_bytes(rows())
    (house.paths.inbox / "high").symlink_to(elsewhere)
    assert [r.kind for r in house.scan(100)] == ["ignored"]
    assert (elsewhere / "x.jsonl").exists()


def test_a_hard_linked_file_is_copied_and_its_other_name_stays(house: House, tmp_path: Path) -> None:
    other = tmp_path / "other.jsonl"
    other.write_bytes(rows())
    os.link(other, house.paths.inbox / "x.jsonl")
    assert [r.kind for r in house.scan(100)] == ["accepted"]
    other.write_bytes(b"changed later")
    assert sha256_file(house.arrivals[0].object_path) == house.arrivals[0].object_sha256


@pytest.mark.parametrize(
    "name",
    ["it's \"quoted\".jsonl", "new\nline.jsonl", "ünï—①.jsonl", "-rf.jsonl", "$(id).jsonl", "a" * 249 + ".jsonl",
     "\u202egnp.jsonl", "x;y&z.jsonl", "%2e%2e.jsonl", os.fsdecode(b"raw\xff.jsonl")],
)  # fmt: skip
def test_any_name_is_a_label_and_never_a_path(house: House, name: str) -> None:
    house.drop(name)
    bad = os.fsdecode(os.fsencode(f"b{name}")[:255])
    house.drop(bad, b"PK\x03\x04")
    kinds = sorted(r.kind for r in house.scan())
    assert kinds == ["accepted", "refused"]
    shown = house.arrivals[0].name
    assert shown.isprintable()
    assert len(shown) <= 120
    shown.encode()
    assert house.inbox() == set()
    assert bad in house.failed()
    assert len(house.failed()) == 3
    assert all(len(os.fsencode(p)) <= 255 for p in house.failed())


# Complete or not


def test_a_file_that_is_still_written_waits_until_it_stands_still(house: House) -> None:
    path = house.drop("x.jsonl", rows(3), moved=False)
    first = house.scan(0.1)
    assert (first.results, [(a.name, a.code, a.size) for a in first.arriving]) == (
        (),
        [("x.jsonl", "arriving", path.stat().st_size)],
    )
    assert first.next_scan_s == pytest.approx(0.3, abs=0.05)
    with open(path, "ab") as file:
        file.write(rows(3, 3))
    os.utime(path, (house.now, house.now))
    assert house.scan(0.35).results == ()
    assert [r.kind for r in house.scan(0.45)] == ["accepted"]
    assert house.arrivals[0].rows == 6


def test_a_file_that_a_program_holds_open_for_writing_is_not_read(house: House) -> None:
    path = house.drop("x.jsonl")
    with open(path, "ab"):
        result = house.scan(100)
        assert result.results == ()
        assert "open for writing" in result.arriving[0].reason
    assert [r.kind for r in house.scan()] == ["accepted"]


def _write_slowly(path: Path, begun: Any) -> None:
    with open(path, "ab") as file:
        while True:
            file.write(rows(1))
            file.flush()
            begun.set()
            time.sleep(0.005)


def test_a_killed_writer_leaves_a_file_that_is_judged_as_it_is(house: House) -> None:
    context = multiprocessing.get_context("fork")
    path, begun = house.paths.inbox / "x.jsonl", context.Event()
    writer = context.Process(target=_write_slowly, args=(path, begun))
    writer.start()
    assert begun.wait(10)
    for _ in range(20):
        assert house.intake.scan(time.time() + 3600).results == ()  # the clock says old, the kernel says open
    writer.kill()
    writer.join()
    size = path.stat().st_size
    results = house.intake.scan(time.time() + 7200).results
    assert [r.kind for r in results] == ["accepted"]
    assert house.arrivals[0].size == size


def test_a_lease_that_is_broken_does_not_end_the_process(house: House) -> None:
    """A writer that opens the file in the instant of the lease makes the kernel signal us: it must be harmless."""
    descriptor = os.open(house.drop("x.jsonl"), os.O_RDONLY)
    try:
        assert has_writer(descriptor) is False
        take_lease(descriptor)
        with pytest.raises(BlockingIOError):
            os.open(house.paths.inbox / "x.jsonl", os.O_WRONLY | os.O_NONBLOCK)
        release_lease(descriptor)
        assert has_writer(descriptor) is False
    finally:
        os.close(descriptor)
    assert signal.getsignal(signal.SIGURG) == signal.SIG_DFL


def test_where_leases_are_unknown_two_seconds_of_silence_are_needed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arena.intake.plan.has_writer", lambda descriptor: None)
    house.drop("x.jsonl", moved=False)
    assert house.scan(0.5).results == ()
    assert house.scan(1.0).results == ()
    assert [r.kind for r in house.scan(0.6)] == ["accepted"]


def test_an_empty_file_is_given_time_and_then_refused(house: House) -> None:
    house.drop("x.jsonl", b"")
    assert house.scan().results == ()
    assert house.scan(5).results == ()
    assert [(r.kind, r.code) for r in house.scan(6)] == [("refused", "empty_file")]


def test_a_clock_that_jumps_loses_nothing(house: House) -> None:
    house.drop("x.jsonl", moved=False)
    assert house.scan(0.1).results == ()
    assert house.scan(-3600).results == ()
    assert [r.kind for r in house.scan(0.5)] == ["accepted"]
    stamp = house.now + 86400
    os.utime(house.drop("future.jsonl", rows(9)), (stamp, stamp))
    assert house.scan().results == ()
    assert [r.kind for r in house.scan(0.5)] == ["accepted"]


def test_a_file_changed_while_it_is_copied_is_read_again_whole(make_house: Callable[..., House]) -> None:
    changes = [rows(4), rows(7)]

    def tick() -> None:
        if changes:
            target = house.paths.inbox / "x.jsonl"
            target.write_bytes(changes.pop())
            os.utime(target, (house.now - 50 - len(changes),) * 2)

    house = make_house(tick=tick)
    house.drop("x.jsonl", rows(5))
    seen = [[r.kind for r in house.scan(1)] for _ in range(4)]
    assert seen == [[], ["accepted"], [], []]
    assert [a.rows for a in house.arrivals] == [4]
    assert os.listdir(house.paths.staging) == []


def test_a_file_put_in_the_place_of_one_that_was_taken_is_not_removed(make_house: Callable[..., House]) -> None:
    def fault(step: str) -> None:
        if step == "accepted" and len(house.arrivals) == 1:
            house.drop("x.jsonl", rows(9))

    house = make_house(fault=fault)
    house.drop("x.jsonl", rows(5))
    house.scan()
    assert [a.rows for a in house.arrivals] == [5]
    assert house.inbox() == {"x.jsonl"}
    house.scan(1)
    assert [a.rows for a in house.arrivals] == [5, 9]
    assert house.inbox() == set()


def test_what_a_crash_left_between_renaming_and_removing_is_finished(house: House) -> None:
    ours, theirs = house.drop("x.jsonl"), house.drop("y.jsonl", rows(9))
    ours.rename(ours.with_name(f".taken-{Identity.of(ours.stat()).token}"))
    theirs.rename(theirs.with_name(".taken-1-2-3"))  # put in the place of another file, which had been taken
    (house.paths.staging / "intake-in_1.raw").write_bytes(b"half")
    assert [r.kind for r in house.scan()] == ["accepted"]
    assert [(a.rows, a.name.startswith("recovered-")) for a in house.arrivals] == [(9, True)]
    assert list(house.paths.inbox.iterdir()) == list(house.paths.staging.iterdir()) == []


def test_an_upload_that_was_abandoned_is_cleared_away_after_an_hour(house: House) -> None:
    for name, age_s in (("old", 7200), ("new", 60)):
        part = house.drop(f".upload-{name}.part", b"half")
        os.utime(part, (house.now - age_s,) * 2)
    house.scan()
    assert house.inbox() == {".upload-new.part"}


# Once and again


def test_the_same_file_dropped_twice_is_one_job_and_says_so(house: House) -> None:
    house.drop("x.jsonl")
    house.scan()
    house.drop("x.jsonl")
    (result,) = house.scan(1)
    assert (result.kind, result.job) == ("duplicate", house.jobs()[0])
    assert "again" in result.hint
    assert len(house.jobs()) == 1
    assert house.inbox() == set()


def test_another_name_other_content_and_again_are_jobs_of_their_own(house: House) -> None:
    house.drop("x.jsonl")
    house.drop("y.jsonl")
    house.scan()
    house.drop("x.jsonl", rows(6))
    house.scan(1)
    for _ in range(2):
        house.drop("x.again.jsonl")
        house.scan(1)
    assert len(house.jobs()) == 5


@pytest.mark.parametrize(
    ("name", "again"),
    [("x.again.jsonl", True), ("x-again2.jsonl.gz", True), ("x again.csv", True), ("again.jsonl", False),
     ("x.jsonl", False), ("against.jsonl", False), ("x.again", False)],
)  # fmt: skip
def test_names_that_ask_for_another_run(name: str, again: bool) -> None:
    assert asks_again(name) is again


@pytest.mark.parametrize(
    ("name", "guess"),
    [("train_bin_L7_2000.jsonl", ("bin", 7)), ("bin_L2.jsonl", ("bin", 2)), ("sy-l12.csv", ("sy", 12)),
     ("notes.jsonl", (None, None)), ("html5.jsonl", (None, None)), ("bin_L2000.jsonl", (None, None))],
)  # fmt: skip
def test_skill_and_level_are_guessed_from_the_name(name: str, guess: tuple[str | None, int | None]) -> None:
    assert guess_from_name(name) == guess


# Refusing


def test_a_refused_file_lies_in_failed_with_reason_report_and_rows(house: House) -> None:
    content = rows(10) + b'{"messages": []}\n' * 5
    house.drop("x.jsonl", content)
    (result,) = house.scan()
    assert (result.kind, result.code) == ("refused", "too_many_bad_rows")
    assert house.failed() == {"x.jsonl", "x.jsonl.reason.json", "x.jsonl.report.txt", "x.jsonl.rejected.jsonl"}
    assert (house.paths.failed / "x.jsonl").read_bytes() == content
    reason = json.loads((house.paths.failed / "x.jsonl.reason.json").read_text())
    assert (reason["code"], reason["report"]["rows_rejected"]) == ("too_many_bad_rows", 5)
    assert reason["job"] == house.jobs("refused")[0].id
    assert "line 11" in (house.paths.failed / "x.jsonl.report.txt").read_text()
    assert len((house.paths.failed / "x.jsonl.rejected.jsonl").read_text().splitlines()) == 5
    assert (os.listdir(house.paths.objects), os.listdir(house.paths.staging)) == ([], [])


def test_refused_files_of_one_name_are_all_kept_and_the_mended_one_is_taken(house: House) -> None:
    for n in range(3):
        house.drop("x.jsonl", b"{broken %d\n" % n)
        house.scan(1)
    assert {n for n in house.failed() if n.endswith(".jsonl")} == {"x.jsonl", "x-2.jsonl", "x-3.jsonl"} | {
        f"x{s}.jsonl.rejected.jsonl" for s in ("", "-2", "-3")
    }
    assert len(house.jobs("refused")) == 3
    house.drop("x.jsonl")
    assert [r.kind for r in house.scan(1)] == ["accepted"]


def test_a_refusal_from_above_goes_the_same_way(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    def accept(arrival: Arrival) -> Job:
        raise RefusedError("There is no such trainer.", hint="Use sft.", code="no_trainer")

    monkeypatch.setattr(house, "accept", accept)
    house.intake = house.new_intake()
    house.drop("x.jsonl")
    assert [(r.kind, r.code) for r in house.scan()] == [("refused", "no_trainer")]
    assert house.refusals[0].report is not None
    assert (house.inbox(), "x.jsonl" in house.failed()) == (set(), True)


def test_bad_rows_within_the_share_are_kept_beside_the_report(house: House) -> None:
    house.drop("x.jsonl", rows(50) + b"{}\n")
    house.scan()
    key = house.arrivals[0].idem_key
    reports = house.paths.data / "reports"
    assert json.loads((reports / f"{key}.json").read_text())["report"]["rows_rejected"] == 1
    assert json.loads((reports / f"{key}.rejected.jsonl").read_text())["line"] == 51


# What goes wrong outside


def test_an_error_keeps_the_file_backs_off_and_holds_up_no_other(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = house.accept
    calls: list[str] = []

    def failing(arrival: Arrival) -> Job:
        calls.append(arrival.name)
        if arrival.name == "bad.jsonl" and len(calls) < 6:
            raise ConflictError("The ledger is busy.")
        return accept(arrival)

    house.intake = Intake(house.paths, SETTINGS, failing)
    house.drop("bad.jsonl")
    house.drop("good.jsonl")
    first = house.scan()
    assert {(r.kind, r.name) for r in first} == {("error", "bad.jsonl"), ("accepted", "good.jsonl")}
    assert first.next_scan_s == pytest.approx(1.0)
    assert house.inbox() == {"bad.jsonl"}
    assert [a.code for a in house.scan(0.5).arriving] == ["conflict"]
    assert calls.count("bad.jsonl") == 1
    for _ in range(8):
        house.scan(20)
    assert house.inbox() == set()
    assert calls.count("bad.jsonl") >= 3


def test_a_full_disk_leaves_the_file_in_the_inbox_and_says_so(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.drop("x.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("arena.intake.files.free_bytes", lambda path: 100)
        (result,) = house.scan()
        assert (result.kind, result.code) == ("waiting", "disk_full")
        assert house.scan(0.1).arriving[0].code == "disk_full"
    assert house.inbox() == {"x.jsonl"}
    assert os.listdir(house.paths.staging) == []
    assert [r.kind for r in house.scan(30)] == ["accepted"]


def test_a_disk_that_fills_while_rows_are_written_leaves_nothing_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    house.drop("x.jsonl")
    with monkeypatch.context() as patch:
        patch.setattr("arena.intake.intake.fsync_file", full)
        assert [(r.kind, r.code) for r in house.scan()] == [("waiting", "disk_full")]
    assert os.listdir(house.paths.staging) == []
    assert os.listdir(house.paths.objects) == []
    assert [r.kind for r in house.scan(30)] == ["accepted"]


def test_a_damaged_object_is_replaced(house: House) -> None:
    house.drop("x.jsonl")
    house.scan()
    target = house.arrivals[0].object_path
    os.chmod(target, 0o600)
    target.write_bytes(b"cut")
    house.drop("y.jsonl")
    house.scan(1)
    assert sha256_file(target) == house.arrivals[0].object_sha256


def test_time_is_shared_out(house: House) -> None:
    for n in range(100):
        house.drop(f"{n}.jsonl", rows(2, n))
    first = house.scan(budget_s=0.0)
    assert 0 < len(first) < 100
    assert first.next_scan_s == 0.0
    assert {a.code for a in first.arriving} == {"next"}
    for _ in range(10):
        house.scan(0.1, budget_s=0.0)
    assert len(house.jobs()) == 100


# Quest files


def test_a_quest_file_and_its_data_are_one_job(house: House) -> None:
    house.drop("q.yaml", b"data: x.jsonl\nconfig: {learning_rate: 1.0e-3}\npriority: high\nskill: bin\nlevel: 4\n")
    house.drop("x.jsonl")
    (result,) = house.scan()
    assert result.kind == "accepted"
    (arrival,) = house.arrivals
    assert (arrival.name, arrival.priority, arrival.skill, arrival.level) == ("q.yaml", "high", "bin", 4)
    assert arrival.spec is not None
    assert arrival.spec.config == {"learning_rate": 1e-3}
    assert house.inbox() == set()
    assert len({p.suffix for p in house.paths.objects.iterdir()}) == 2


def test_a_quest_waits_for_its_data_and_says_so_after_a_minute(house: House) -> None:
    house.drop("q.yaml", b"data: x.jsonl\n")
    first = house.scan()
    assert (first.results, first.arriving[0].code) == ((), "waiting_for_data")
    assert house.scan(30).results == ()
    assert [(r.kind, r.code) for r in house.scan(31)] == [("waiting", "waiting_for_data")]
    assert house.scan(30).results == ()
    house.drop("x.jsonl", moved=False)
    assert house.scan(0.1).results == ()
    assert [r.kind for r in house.scan(0.5)] == ["accepted"]
    assert len(house.arrivals) == 1


def test_data_beside_an_arriving_quest_is_not_taken_for_itself(house: House) -> None:
    house.drop("x.jsonl")
    quest = house.drop("q.yaml", b"data: x.js", moved=False)
    assert house.scan(0.1).results == ()
    quest.write_bytes(b"data: x.jsonl\n")
    os.utime(quest, (house.now, house.now))
    assert house.scan(0.1).results == ()
    house.scan(0.5)
    assert [a.name for a in house.arrivals] == ["q.yaml"]


def test_two_quests_share_one_data_file(house: House) -> None:
    house.drop("a.yaml", b"data: x.jsonl\n")
    house.drop("b.yaml", b"data: x.jsonl\nconfig: {epochs: 2}\n")
    house.drop("x.jsonl")
    house.scan()
    assert sorted(a.name for a in house.arrivals) == ["a.yaml", "b.yaml"]
    assert house.inbox() == set()


def test_a_quest_with_a_mistake_is_refused_together_with_its_data(house: House) -> None:
    house.drop("q.yaml", b"data: x.jsonl\nlearning_rate: 3\n")
    house.drop("x.jsonl")
    (result,) = house.scan()
    assert (result.kind, result.code) == ("refused", "bad_quest")
    assert "learning_rate" in result.message
    assert house.inbox() == set()
    assert {"q.yaml", "x.jsonl"} <= house.failed()
    assert house.jobs() == []


def test_a_quest_with_bad_rows_is_refused_together_with_its_data(house: House) -> None:
    house.drop("q.yaml", b"data: x.jsonl\n")
    house.drop("x.jsonl", b"{}\n")
    assert [(r.kind, r.code) for r in house.scan()] == [("refused", "too_many_bad_rows")]
    assert (house.inbox(), {"q.yaml", "x.jsonl"} <= house.failed()) == (set(), True)


def test_rows_in_a_quest_file_and_rows_that_a_generator_makes(make_house: Callable[..., House]) -> None:
    def generate(spec: GeneratorSpec) -> Iterator[dict[str, Any]]:
        return (json.loads(line) for line in rows(spec.count).splitlines())

    house = make_house(generate=generate)
    house.drop("a.yaml", b"data: [{prompt: a, completion: b}]\n")
    house.drop("b.yaml", b"data: {skill: bin, level: 3, count: 40}\n")
    house.scan()
    found = {a.name: (a.rows, a.format, a.skill, a.level) for a in house.arrivals}
    assert found["a.yaml"] == (1, "quest/prompt_completion", None, None)
    assert found["b.yaml"] == (40, "generated/messages", "bin", 3)
    assert all(a.object_path.suffix == ".yaml" and a.object_path.exists() for a in house.arrivals)


def test_without_a_generator_the_quest_is_refused(house: House) -> None:
    house.drop("b.yaml", b"data: {skill: bin, level: 3, count: 40}\n")
    assert [(r.kind, r.code) for r in house.scan()] == [("refused", "no_generator")]


def test_again_in_a_quest_file_trains_again(house: House) -> None:
    for _ in range(2):
        house.drop("q.yaml", b"data: [{prompt: a, completion: b}]\nagain: true\n")
        house.scan(1)
    house.drop("p.yaml", b"data: [{prompt: a, completion: b}]\n")
    house.scan(1)
    house.drop("p.yaml", b"data: [{prompt: a, completion: b}]\n")
    assert [r.kind for r in house.scan(1)] == ["duplicate"]
    assert len(house.jobs()) == 3


def test_the_policy_may_differ_for_each_quest(make_house: Callable[..., House]) -> None:
    asked: list[QuestSpec | None] = []

    def policy(spec: QuestSpec | None) -> Policy:
        asked.append(spec)
        return Policy(max_bad_rows=1.0 if spec is None else 0.0)

    house = make_house(policy=policy)
    house.drop("x.jsonl", rows(3) + b"{}\n")
    house.drop("q.yaml", b"data: y.jsonl\n")
    house.drop("y.jsonl", rows(3) + b"{}\n")
    assert sorted((r.kind, r.name) for r in house.scan()) == [("accepted", "x.jsonl"), ("refused", "q.yaml")]
    assert len(asked) == 2


# Uploads


def test_an_upload_goes_the_way_of_every_file_without_waiting(house: House) -> None:
    path = accept_upload(house.paths, io.BytesIO(rows()), "my data.jsonl", limit_bytes=1 << 20, priority="high")
    assert path == house.paths.inbox / "high" / "my data.jsonl"
    house.now = time.time()
    assert [r.kind for r in house.scan()] == ["accepted"]
    assert house.arrivals[0].priority == "high"


def test_uploads_of_one_name_do_not_overwrite_each_other(house: House) -> None:
    names = [accept_upload(house.paths, [rows(n)], "x.jsonl.gz", limit_bytes=1 << 20).name for n in (1, 2, 3)]
    assert names == ["x.jsonl.gz", "x-2.jsonl.gz", "x-3.jsonl.gz"]


def test_uploads_have_limits_and_leave_nothing_behind(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedError) as caught:
        accept_upload(house.paths, iter([b"x" * 600, b"x" * 600]), "x.jsonl", limit_bytes=1000)
    assert caught.value.code == "upload_too_large"

    def broken() -> Iterator[bytes]:
        yield b"half"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        accept_upload(house.paths, broken(), "x.jsonl", limit_bytes=1000)
    with pytest.raises(DiskFullError):
        accept_upload(house.paths, [b"x"], "x.jsonl", limit_bytes=1000, disk_floor_bytes=1 << 60)
    with pytest.raises(RefusedError):
        accept_upload(house.paths, [b"x"], "x.jsonl", limit_bytes=1000, priority="../etc")
    assert house.inbox() == set()


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a.jsonl", "a.jsonl"), ("../../etc/passwd", "passwd"), ("C:\\dir\\a.csv", "a.csv"), (".hidden", "hidden"),
     ("x.part", "x.part_"), ("x~", "x~_"), ("", "upload"), ("...", "upload"), ("a\0b\n.txt", "a_b_.txt"),
     ("\u202egnp.txt", "_gnp.txt"), ("a" * 300 + ".jsonl.gz", "a" * 171 + ".jsonl.gz"), ("é" * 200, "é" * 90)],
)  # fmt: skip
def test_upload_names_are_one_visible_component(given: str, kept: str) -> None:
    assert safe_name(given) == kept


def test_labels_are_short_and_printable() -> None:
    assert label("plain.jsonl") == "plain.jsonl"
    assert label("👨‍👩‍👧.txt") == "👨‍👩‍👧.txt"
    assert len(label("x" * 250)) <= 120


# Speed


def _drop_many(inbox: Path, worker: int, count: int) -> None:
    for n in range(count):
        part = inbox / f"{worker}-{n}.jsonl.part"
        part.write_bytes(rows(20, worker * 10_000 + n * 20))
        os.rename(part, inbox / f"{worker}-{n}.jsonl")


def _take_from_many(house: House, writers: int, each: int) -> float:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_drop_many, args=(house.paths.inbox, w, each)) for w in range(writers)]
    begin = time.monotonic()
    for child in children:
        child.start()
    taken = 0
    while taken < writers * each and time.monotonic() < begin + 60:
        taken += sum(r.kind == "accepted" for r in house.intake.scan(time.time()))
    for child in children:
        child.join()
    assert taken == len(house.jobs()) == writers * each
    assert house.inbox() == set()
    return time.monotonic() - begin


def test_files_dropped_by_four_processes_are_all_taken(house: House) -> None:
    assert _take_from_many(house, 4, 25) < 10


@pytest.mark.slow
def test_a_thousand_files_dropped_by_eight_processes_are_taken_in_twenty_seconds(house: House) -> None:
    assert _take_from_many(house, 8, 125) < 20


def test_two_thousand_rows_are_in_the_queue_in_six_tenths_of_a_second(house: House) -> None:
    content = rows(2000, skill="bin", level=3)
    house.scan()
    best = 9.0
    for n in range(3):
        (house.paths.inbox / f"{n}.jsonl").write_bytes(content)
        begin = time.monotonic()
        while not (result := house.intake.scan(time.time())).results:
            assert time.monotonic() < begin + 10
            time.sleep(min(result.next_scan_s or 0.01, 0.05))
        best = min(best, time.monotonic() - begin)
    assert best < 0.6
