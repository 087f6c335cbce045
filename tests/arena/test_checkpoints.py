"""Checkpoints: the write protocol, what a crash at any point leaves, damage of every kind, rotation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena.checkpoints import PIN_NAME, CheckpointStore, FenceLostError
from realm.errors import CorruptFileError, DiskFullError
from vault import manifest as manifests

NOON = 1_790_000_000.0
POINTS = ["before_files", "after_files", "before_manifest", "after_manifest", "before_rename"]


class Crash(BaseException):
    """Stands for kill -9 at a named point: nothing after it runs, not even clean-up."""


def write(folder: Path, text: str = "weights") -> None:
    (folder / "model.safetensors").write_bytes(text.encode() * 100)
    (folder / "state.json").write_text(json.dumps({"text": text}))
    (folder / "sub").mkdir()
    (folder / "sub/more.json").write_text("{}")


def save(store: CheckpointStore, step: int) -> Any:
    return store.save({"step": 100 + step, "run_step": step}, lambda folder: write(folder, f"weights {step}"))


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def test_a_checkpoint_has_its_canonical_name_and_a_manifest_of_every_file(tmp_path: Path) -> None:
    saved = save(CheckpointStore(tmp_path, fence=7, clock=lambda: NOON), 1)
    assert saved.name == manifests.canonical_name(101, NOON)
    assert (saved.step, saved.run_step) == (101, 1)
    assert [file.name for file in saved.manifest.files] == ["model.safetensors", "state.json", "sub/more.json"]
    assert saved.manifest.card["canonical_name"] == saved.name
    assert saved.manifest.card["fence"] == 7
    assert manifests.verify(saved.path) == saved.manifest
    assert names(tmp_path) == [saved.name]


def test_a_taken_name_gets_a_suffix_and_nothing_is_overwritten(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, clock=lambda: NOON)
    first, second, third = save(store, 1), save(store, 1), save(store, 1)
    assert [second.name, third.name] == [f"{first.name}-2", f"{first.name}-3"]
    assert second.manifest.card["canonical_name"] == second.name
    newest, _ = store.newest_verified()
    assert newest is not None
    assert newest.name == third.name


@pytest.mark.parametrize("point", POINTS)
def test_a_crash_before_the_rename_leaves_the_older_one_in_charge(tmp_path: Path, point: str) -> None:
    older = save(CheckpointStore(tmp_path), 1)
    pid = os.fork()
    if pid == 0:  # a real death, without any clean-up

        def die(reached: str) -> None:
            if reached == point:
                os.kill(os.getpid(), 9)

        save(CheckpointStore(tmp_path, fence=2, fault=die), 2)
        os._exit(1)
    _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == 9
    store = CheckpointStore(tmp_path, fence=3)
    newest, quarantined = store.newest_verified()
    assert newest is not None
    assert (newest.name, quarantined) == (older.name, [])
    store.clean()
    assert names(tmp_path) == [older.name]


@pytest.mark.parametrize("point", ["after_rename", "after_commit"])
def test_a_crash_behind_the_rename_loses_nothing(tmp_path: Path, point: str) -> None:
    def die(reached: str) -> None:
        if reached == point:
            raise Crash

    save(CheckpointStore(tmp_path), 1)
    with pytest.raises(Crash):
        save(CheckpointStore(tmp_path, fault=die), 2)
    newest, quarantined = CheckpointStore(tmp_path).newest_verified()
    assert newest is not None
    assert (newest.run_step, quarantined) == (2, [])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def _zero(path: Path) -> None:
    path.write_bytes(b"\0" * path.stat().st_size)


def _link(path: Path) -> None:
    copy = path.with_name("elsewhere")
    path.rename(copy)
    path.symlink_to(copy)


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("file", "damage"),
    [
        (file, damage)
        for file in ("model.safetensors", "state.json", "sub/more.json")
        for damage in (_flip, _truncate, _zero, Path.unlink, _link)
    ]
    + [(manifests.NAME, damage) for damage in (_halve, _zero, Path.unlink)],
)
def test_damage_is_seen_set_aside_and_the_one_before_is_used(
    tmp_path: Path, file: str, damage: Callable[[Path], None]
) -> None:
    store = CheckpointStore(tmp_path)
    older, newer = save(store, 1), save(store, 2)
    damage(newer.path / file)
    newest, quarantined = CheckpointStore(tmp_path).newest_verified()
    assert newest is not None
    assert newest.name == older.name
    assert quarantined == [f".quarantine-{newer.name}"]
    assert f".quarantine-{newer.name}" in names(tmp_path)
    assert newer.name not in names(tmp_path)


def test_nothing_verifies_means_none_and_all_are_kept_aside(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, clock=lambda: NOON)
    for step in (1, 2):
        _truncate(save(store, step).path / "state.json")
    newest, quarantined = store.newest_verified()
    assert newest is None
    assert len(quarantined) == 2
    assert all(name.startswith(".quarantine-") for name in names(tmp_path))


def test_quarantine_never_overwrites(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, clock=lambda: NOON)
    first = store.quarantine(save(store, 1).path)
    second = store.quarantine(save(store, 1).path)
    assert first != second
    assert names(tmp_path) == sorted([first, second])


def test_a_lost_fence_stops_the_commit(tmp_path: Path) -> None:
    with pytest.raises(FenceLostError):
        save(CheckpointStore(tmp_path, holds_fence=lambda: False), 1)
    assert names(tmp_path) == []


def test_preflight_asks_for_twice_the_last_size_and_the_floor(tmp_path: Path) -> None:
    free = [10**9]
    store = CheckpointStore(tmp_path, floor_bytes=1000, free=lambda _: free[0])
    size = save(store, 1).manifest.size
    free[0] = 2 * size + 999
    with pytest.raises(DiskFullError) as caught:
        save(store, 2)
    assert caught.value.data == {"needed": 2 * size + 1000, "free": free[0]}
    free[0] += 1
    assert save(store, 2).run_step == 2


def test_safetensors_says_no_space_in_words(tmp_path: Path) -> None:
    def full(folder: Path) -> None:
        (folder / "x").write_bytes(b"x")
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")

    with pytest.raises(DiskFullError):
        CheckpointStore(tmp_path).save({"step": 1, "run_step": 1}, full)
    assert names(tmp_path) == []


def test_other_errors_of_a_save_leave_nothing_behind_and_are_told(tmp_path: Path) -> None:
    def breaks(folder: Path) -> None:
        (folder / "x").write_bytes(b"x")
        raise OSError(5, "Input/output error")

    with pytest.raises(OSError, match="Input/output"):
        CheckpointStore(tmp_path).save({"step": 1, "run_step": 1}, breaks)
    assert names(tmp_path) == []


def test_rotation_keeps_newest_best_pinned_and_used(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    saved = [save(store, step) for step in range(1, 8)]
    (saved[1].path / PIN_NAME).touch()
    (saved[2].path / ".in-use-oracle").touch()
    removed = store.rotate(saved[-1], best=saved[3].name)
    assert removed == [saved[4].name, saved[0].name]
    assert names(tmp_path) == sorted(saved[i].name for i in (1, 2, 3, 5, 6))


def test_rotation_does_not_count_a_damaged_one_as_kept(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    saved = [save(store, step) for step in range(1, 5)]
    _flip(saved[2].path / "model.safetensors")
    removed = CheckpointStore(tmp_path, keep=2).rotate(saved[3])
    assert removed == [saved[0].name]
    assert saved[1].name in names(tmp_path)


def test_rotation_deletes_nothing_when_the_new_one_is_damaged(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    saved = [save(store, step) for step in range(1, 5)]
    _truncate(saved[-1].path / "model.safetensors")
    with pytest.raises(CorruptFileError):
        store.rotate(saved[-1])
    assert len(names(tmp_path)) == 4


@settings(max_examples=40, deadline=None)
@given(
    steps=st.integers(1, 7),
    pins=st.sets(st.integers(0, 6)),
    damaged=st.sets(st.integers(0, 6)),
    best=st.integers(0, 6) | st.none(),
    keep=st.integers(0, 4),
    crash_at=st.integers(0, 6),
)
def test_whatever_happens_the_newest_verified_ones_stay(
    tmp_path_factory: pytest.TempPathFactory,
    *,
    steps: int,
    pins: set[int],
    damaged: set[int],
    best: int | None,
    keep: int,
    crash_at: int,
) -> None:
    folder = tmp_path_factory.mktemp("rotation")
    store = CheckpointStore(folder, keep=keep, clock=lambda: NOON)
    saved = [save(store, step) for step in range(1, steps + 1)]
    damaged = {i for i in damaged if i < steps - 1}
    for i in damaged:
        _flip(saved[i].path / "model.safetensors")
    for i in pins:
        if i < steps:
            (saved[i].path / PIN_NAME).touch()
    deletions = iter(range(10**6))

    def fault(point: str) -> None:
        if point in ("before_delete", "after_delete") and next(deletions) == crash_at:
            raise Crash

    best_name = saved[best].name if best is not None and best < steps else None
    rotating = CheckpointStore(folder, keep=keep, fault=fault)
    try:
        rotating.rotate(saved[-1], best=best_name)
    except Crash:
        CheckpointStore(folder).clean()
    left = set(names(folder))
    sound = [i for i in range(steps) if i not in damaged]
    must = {saved[i].name for i in sound[-max(2, keep) :]}
    must |= {saved[i].name for i in pins if i < steps}
    must |= {best_name} if best_name else set()
    assert must <= left
    newest, _ = CheckpointStore(folder).newest_verified()
    assert newest is not None
    assert newest.name == saved[-1].name
