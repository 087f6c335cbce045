"""Metric points, commands, tokens, events, manifests."""

from __future__ import annotations

from pathlib import Path

import pytest

from realm.errors import ConfigError, CorruptFileError, NotFoundError
from tests.conftest import new_job
from vault import manifest
from vault.store import Vault


def test_points_are_idempotent_and_thinning_keeps_extremes(vault: Vault) -> None:
    points = [("loss", step, 100.0 if step == 4321 else 1.0) for step in range(10_000)]
    vault.metrics.append("run_a", points)
    vault.metrics.append("run_a", points[:100])
    series = vault.metrics.series("run_a", "loss", max_points=500)
    assert len(series) <= 500
    assert max(point.high for point in series) == 100.0
    assert series[-1].step == 9999
    assert len(vault.metrics.series("run_a", "loss", last_steps=10)) == 10
    assert vault.metrics.latest("run_a") == {"loss": (9999, 1.0)}
    assert vault.metrics.series("run_b", "loss") == []


def test_a_command_is_settled_once_and_known_by_its_id(vault: Vault) -> None:
    command = vault.commands.request("pause", by="ann", command_id="cmd_1")
    assert vault.commands.request("pause", by="ann", command_id="cmd_1") == command
    vault.commands.sent("cmd_1")
    vault.commands.settle("cmd_1", "done", {"effect": "paused"})
    vault.commands.settle("cmd_1", "refused", {"effect": "too late"})
    settled = vault.commands.get("cmd_1")
    assert (settled.state, settled.effect) == ("done", {"effect": "paused"})
    assert vault.commands.open() == []
    with pytest.raises(ConfigError):
        vault.commands.request("dance")


def test_a_token_works_until_it_expires_or_is_revoked_and_its_secret_is_not_kept(vault: Vault, paths) -> None:
    token, secret = vault.tokens.create("laptop", ["read"], ttl_s=100)
    assert vault.tokens.authenticate(secret) is not None
    assert vault.tokens.authenticate(secret, now=token.created_at + 101) is None
    assert vault.tokens.authenticate(secret + "x") is None
    vault.tokens.revoke(token.id)
    assert vault.tokens.authenticate(secret) is None
    files = [path for path in paths.home.iterdir() if path.is_file()]
    assert not any(secret.encode() in path.read_bytes() for path in files)
    with pytest.raises(ConfigError):
        vault.tokens.create("x", ["everything"])
    with pytest.raises(NotFoundError):
        vault.tokens.revoke("tok_none")


def test_events_are_read_on_without_gap_or_double(vault: Vault) -> None:
    seen: list[int] = []
    for number in range(30):
        vault.jobs.submit(new_job(str(number)))
        seen += [event.seq for event in vault.events.list(after=seen[-1] if seen else 0)]
    assert seen == list(range(1, vault.events.latest_seq() + 1))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint-5-20261120-1200"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights" * 1000)
    (folder / "sub" / "empty.json").write_bytes(b"")
    manifest.write_manifest(folder, {"step": 5})
    return folder


def test_a_whole_checkpoint_verifies_and_its_manifest_is_canonical(folder: Path) -> None:
    found = manifest.verify(folder)
    assert [file.name for file in found.files] == ["model.safetensors", "sub/empty.json"]
    assert found.sha256() == manifest.read_manifest(folder).sha256()
    assert found.size == 7000


@pytest.mark.parametrize("harm", ["flip", "truncate", "grow", "delete", "zero", "no manifest", "torn manifest", "link"])
def test_every_kind_of_harm_is_found(folder: Path, harm: str) -> None:
    weights = folder / "model.safetensors"
    data = bytearray(weights.read_bytes())
    if harm == "flip":
        data[3500] ^= 1
        weights.write_bytes(data)
    elif harm == "truncate":
        weights.write_bytes(data[:-1])
    elif harm == "grow":
        weights.write_bytes(data + b"x")
    elif harm == "zero":
        weights.write_bytes(bytes(len(data)))
    elif harm == "delete":
        weights.unlink()
    elif harm == "link":
        weights.rename(folder.parent / "elsewhere")
        weights.symlink_to(folder.parent / "elsewhere")
    elif harm == "no manifest":
        (folder / manifest.NAME).unlink()
    else:
        text = (folder / manifest.NAME).read_bytes()
        (folder / manifest.NAME).write_bytes(text[: len(text) // 2])
    with pytest.raises(CorruptFileError):
        manifest.verify(folder)


def test_a_manifest_that_names_files_outside_is_corrupt(folder: Path) -> None:
    text = (folder / manifest.NAME).read_text().replace("model.safetensors", "../../etc/passwd")
    (folder / manifest.NAME).write_text(text)
    with pytest.raises(CorruptFileError, match="outside"):
        manifest.verify(folder)


@pytest.mark.parametrize(
    ("name", "step"),
    [("checkpoint-181500-20251127-2210", 181500), ("checkpoint-5-20261120-1200-2", 5), ("checkpoint-5", None),
     ("checkpoint-5-20261399-1200", None), ("checkpoint-5-20261120-1200/..", None)],
)  # fmt: skip
def test_names_are_parsed(name: str, step: int | None) -> None:
    parsed = manifest.parse_name(name)
    assert (parsed[0] if parsed else None) == step


def test_names_are_made_in_utc() -> None:
    assert manifest.canonical_name(7, 1_764_281_400.0) == "checkpoint-7-20251127-2210"
    assert manifest.canonical_name(7, 1_764_281_400.0, attempt=1) == "checkpoint-7-20251127-2210-2"
