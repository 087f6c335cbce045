"""`realm status`: hero, battle, queue and services in a few lines, or all of it as JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from realm.cli import context
from realm.cli.context import duration, number

if TYPE_CHECKING:
    import typer

ASK_S = 1.0


def register(app: typer.Typer) -> None:
    app.command()(status)


def status() -> int:
    """Show how everything stands. Exit code 1 when there is an error to be seen to."""
    found = _fetch()
    context.show(found, describe(found))
    return 1 if any(notice["level"] == "error" for notice in found["notices"]) else 0


def describe(found: dict[str, Any]) -> str:
    """Return a status as lines for people."""
    lines = [*_hero(found["hero"]), _battle(found["battle"]), _queue(found["queue"]), _services(found["services"])]
    lines += [f"! {' '.join(notice['text'].split())} {notice['action']}" for notice in found["notices"]]
    return "\n".join(lines)


def _fetch() -> dict[str, Any]:
    """Ask the running Tavern, which has the answer at hand, else read the ledger."""
    if not context.current.server:
        settings = context.settings()
        from realm.services import read_identity

        if read_identity(settings.paths, "tavern") is not None:
            found = _from_tavern(context.current.home, settings)
            if found is not None:
                return found
    return context.client().status()


def _from_tavern(home: str | None, settings: Any) -> dict[str, Any] | None:
    from realm.cli.remote import RemoteClient
    from realm.errors import RealmError
    from realm.weaver.address import tavern_address

    try:
        found = RemoteClient(tavern_address(settings), context.secret(), ASK_S).status()
    except (RealmError, ValueError):
        return None
    return found if found.get("realm", {}).get("home") == str(settings.home) else None


def _hero(hero: dict[str, Any] | None) -> list[str]:
    if hero is None:
        return ["No hero yet: the first start of the realm makes one."]
    left = hero["xp_per_level"] - hero["xp_into_level"]
    accuracy = f"{hero['acc'] * 100:.1f} % ({hero['acc_correct']}/{hero['acc_total']})" if hero["acc_total"] else "-"
    return [
        f"{hero['name']}: level {hero['level']}, {hero['xp']:,} steps, {left:,} to the next level, "
        f"{hero['gold']:,} gold",
        f"  ATK {number(hero['atk'], 2)} (train loss {number(hero['train_loss'])})   "
        f"DEF {number(hero['def'], 2)} (val loss {number(hero['val_loss'])})   ACC {accuracy} (held out)",
        *(f"  {entry['skill']} level {entry['level']}: {_answers(entry)}" for entry in hero["skills"]),
    ]


def _answers(entry: dict[str, Any]) -> str:
    """Return what was answered right of the problems that may have been trained, and of those that never were."""
    parts = [("known", entry["known"]), ("held out", entry["heldout"])]
    return ", ".join(f"{name} {found['correct']}/{found['total']}" for name, found in parts if found)


def _battle(battle: dict[str, Any] | None) -> str:
    return "Battle: none" if battle is None else f"Battle: {battle['name']}, {progress(battle)}"


def progress(battle: dict[str, Any]) -> str:
    """Return how far a battle is, in one phrase."""
    of = f"/{battle['max_steps']:,}" if battle["max_steps"] else ""
    left = f", {duration(battle['eta_s'][1])} left at most" if battle["eta_s"] else ""
    pace = f", {battle['steps_per_s']:.1f} steps/s" if battle["steps_per_s"] else ""
    loss = battle["loss_smooth"] if battle["loss_smooth"] is not None else battle["loss"]
    return (
        f"{battle['state']}, step {battle['step']:,} "
        f"({battle['run_step']:,}{of} of this run), loss {number(loss)}{pace}{left}"
    )


def _queue(queue: dict[str, Any]) -> str:
    held = f"held by {queue['held']['by']} ({queue['held']['reason']}), " if queue["held"] else ""
    return f"Queue: {held}{queue['waiting']} waiting, {queue['failed']} failed"


def _services(services: list[dict[str, Any]]) -> str:
    if not services:
        return "Services: none were started. Start them with `realm up`."
    return "Services: " + ", ".join(f"{service['name']} {service['state']}" for service in services)
