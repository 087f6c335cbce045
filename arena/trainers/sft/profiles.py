"""Profiles: how a row is dressed before it is rendered, and how an answer is undressed again.

A profile is a pure function of the row, so that data order, caches and resumption stay exact: what varies between rows
(which emoji, how many) is decided by the row's own content and said in its prompt, never by a random generator. The
same function dresses the problems of an evaluation. `penalties` tells whoever generates which tokens to hold down.

`register` adds one; the three that come with the realm are at the bottom. Invariant: answer(dress(row)'s last turn)
is the row's last turn (tests/arena/trainers/test_profiles.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from realm.errors import ConfigError

Row = dict[str, Any]


@dataclass(frozen=True)
class Penalty:
    """A request to whoever generates: add `bias` to the logits of the first token of `text`.

    From the first token on, or only once `after` has been generated `after_count` times.
    """

    text: str
    bias: float
    after: str | None = None
    after_count: int = 1


@dataclass(frozen=True)
class Profile:
    """One way to dress rows. `dress` gets a canonical row and returns another; `answer` undoes it on generated text."""

    name: str
    title: str
    dress: Callable[[Row], Row]
    answer: Callable[[str], str]
    penalties: tuple[Penalty, ...] = ()


_PROFILES: dict[str, Profile] = {}


def register(profile: Profile) -> Profile:
    """Make a profile known by its name; the same name twice is an error."""
    if profile.name in _PROFILES:
        raise ConfigError(f"There already is a profile {profile.name!r}.")
    _PROFILES[profile.name] = profile
    return profile


def get_profile(name: str) -> Profile:
    """Return a profile. Raises ConfigError that lists the known ones."""
    try:
        return _PROFILES[name]
    except KeyError:
        raise ConfigError(
            f"There is no training profile {name!r}.", hint=f"Known: {', '.join(sorted(_PROFILES))}."
        ) from None


def profile_names() -> list[str]:
    return sorted(_PROFILES)


def _map_turns(row: Row, user: Callable[[str, int], str], assistant: Callable[[str, int], str]) -> Row:
    """Return the row with its user and assistant turns rewritten; both get the hash of the question before them."""
    if "messages" not in row:
        return row
    messages = []
    key = 0
    for message in row["messages"]:
        content = message["content"]
        if message["role"] == "user":
            key = int.from_bytes(hashlib.blake2b(content.encode(), digest_size=8).digest(), "big")
            content = user(content, key)
        elif message["role"] == "assistant":
            content = assistant(content, key)
        messages.append({**message, "content": content})
    return {**row, "messages": messages}


register(Profile("plain_sft", "Rows as they are", dress=lambda row: row, answer=lambda text: text))


THINK_EMOJI = ("🤔", "💭", "🧠", "💡")
STOP_EMOJI = ("🛑", "⛔", "🚫", "✋")


def _emoji_choice(key: int) -> tuple[str, str]:
    think = THINK_EMOJI[key % 4] * (1 + (key >> 8) % 3)
    stop = STOP_EMOJI[(key >> 16) % 4] * (1 + (key >> 24) % 2)
    return think, stop


def _emoji_user(content: str, key: int) -> str:
    think, stop = _emoji_choice(key)
    return f"{content}\n{think} … {stop}"


def _emoji_assistant(content: str, key: int) -> str:
    think, stop = _emoji_choice(key)
    return f"{think}\n{content}\n{stop}"


def _emoji_answer(text: str) -> str:
    body = text.strip()
    body = body.lstrip("".join(THINK_EMOJI)).removeprefix("\n")
    cut = min((at for emoji in STOP_EMOJI if (at := body.find(f"\n{emoji}")) >= 0), default=len(body))
    return body[:cut]


register(
    Profile(
        "emoji_think",
        "Thinking emoji before and stop emoji after each answer, as the prompt asks for them",
        dress=lambda row: _map_turns(row, _emoji_user, _emoji_assistant),
        answer=_emoji_answer,
        penalties=(
            *(Penalty(emoji, -4.0, after=emoji, after_count=3) for emoji in THINK_EMOJI),
            *(Penalty(think, -8.0, after=stop) for think in THINK_EMOJI[:1] for stop in STOP_EMOJI),
        ),
    )
)


def _regime3_user(content: str, key: int) -> str:
    return f"⟦r3⟧ {content}"


def _regime3_assistant(content: str, key: int) -> str:
    *steps, conclusion = content.split("\n")
    return "\n".join([*(f"⊢ {step}" for step in steps), f"∴ {conclusion} ∎"])


def _regime3_answer(text: str) -> str:
    lines = text.strip().removesuffix("∎").removesuffix(" ").split("\n")
    return "\n".join(line.removeprefix("⊢ ").removeprefix("∴ ") for line in lines)


register(
    Profile(
        "regime3",
        "Symbolic reasoning: every line is derived (⊢), the last one follows (∴) and ends the proof (∎)",
        dress=lambda row: _map_turns(row, _regime3_user, _regime3_assistant),
        answer=_regime3_answer,
        penalties=(Penalty("⊢", -6.0, after="∎"), Penalty("∴", -6.0, after="∎")),
    )
)
