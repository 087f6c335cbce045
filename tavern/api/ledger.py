"""Heroes, checkpoints and evaluations."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from tavern.api.models import Checkpoint, Evaluation, Hero, PageOf
from tavern.bounds import Cursor, Limit, PathId, QueryId, QueryName
from tavern.context import CallerDep, Tavern, TavernDep
from vault import records

api = APIRouter()


@api.get("/heroes", response_model=list[Hero], tags=["heroes"], summary="List heroes with their numbers")
def list_heroes(tavern: TavernDep) -> Any:
    return [_with_stats(tavern, hero) for hero in tavern.vault.ledger.heroes()]


@api.get("/heroes/{hero_id}", response_model=Hero, tags=["heroes"], summary="Get a hero with its numbers")
def get_hero(tavern: TavernDep, hero_id: PathId) -> Any:
    return _with_stats(tavern, tavern.vault.ledger.hero(hero_id))


@api.get("/checkpoints", response_model=PageOf[Checkpoint], tags=["checkpoints"], summary="List checkpoints")
def list_checkpoints(
    tavern: TavernDep,
    hero: QueryId = None,
    run: QueryId = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Newest first, verified ones only."""
    return tavern.vault.ledger.checkpoints(hero, run_id=run, limit=limit, before_seq=cursor)


@api.get(
    "/checkpoints/{checkpoint_id}", response_model=Checkpoint, tags=["checkpoints"], summary="Get a checkpoint's card"
)
def get_checkpoint(tavern: TavernDep, checkpoint_id: PathId) -> Any:
    return tavern.vault.ledger.checkpoint(checkpoint_id)


@api.post(
    "/checkpoints/{checkpoint_id}/promote",
    response_model=Checkpoint,
    tags=["checkpoints"],
    summary="Make a checkpoint the champion",
)
def promote_checkpoint(tavern: TavernDep, caller: CallerDep, checkpoint_id: PathId) -> Any:
    """A person's choice stands until it is changed or the checkpoint is lost; the best one no longer replaces it."""
    return tavern.vault.ledger.promote(checkpoint_id, caller.name)


@api.get("/evaluations", response_model=PageOf[Evaluation], tags=["evaluations"], summary="List evaluations")
def list_evaluations(
    tavern: TavernDep,
    *,
    hero: QueryId = None,
    run: QueryId = None,
    name: QueryName = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Any:
    """Newest first. `details` holds some of the wrong answers."""
    return tavern.vault.ledger.evaluations(hero_id=hero, run_id=run, name=name, limit=limit, before_seq=cursor)


def _with_stats(tavern: Tavern, hero: records.Hero) -> dict[str, Any]:
    return {**hero.to_dict(), "stats": tavern.vault.ledger.stats(hero.id)}
