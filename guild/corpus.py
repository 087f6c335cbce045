"""Text for the squire's tokenizer: problems of the skills, and plain sentences.

Most of it is BIN, every level and tag, so that its glue becomes single tokens; the sentences, made from
a small grammar of the project's own, give the tokenizer ordinary English words for chat. None of this
trains a model: the squire starts with random weights.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

from guild.skills.registry import get_skill, get_trainer

ROWS_PER_LEVEL = 400
_EVEN_MIX = {"direct": 1.0, "verify": 1.0, "show-work": 3.0, "trace": 1.0}

_SUBJECTS = (
    "the teacher", "my friend", "a careful reader", "the old miller", "our model", "the small robot", "she",
    "he", "everyone in the village", "the captain", "a young student", "the gardener", "it", "the computer",
)  # fmt: skip
_ACTIONS = (
    "writes a short letter about the weather", "counts the numbers from one to ten", "looks for the right answer",
    "explains how the carry moves to the left", "asks a question and waits", "reads the story again from the start",
    "wants to know which of the two is larger", "learns something new every day", "checks the result before saying it",
    "brings bread, water and three apples", "remembers what was said yesterday", "thinks step by step about it",
)  # fmt: skip
_ENDINGS = (
    "in the morning.", "because it is important.", "and then goes home.", "without making a mistake.",
    "while the others are listening.", "before the sun goes down.", "if there is enough time.",
)  # fmt: skip
_TALK = (
    "Hello! How can I help you today?", "What is your name?", "I am a small model, and I am still learning.",
    "Please tell me more about that.", "Thank you, that was very helpful.", "I do not know the answer to that.",
    "Is this correct?", "It is correct.", "It is incorrect.", "This is incorrect. Find the correct solution.",
    "Can you show your work?", "Yes, of course. Let us begin with the last digit.", "No, I would rather not.",
    "What would you like to do next?", "Good morning, and good luck with your training!", "Why does that happen?",
    "First write both numbers down, then add the digits from right to left.", "You are a helpful assistant.",
)  # fmt: skip


def squire_corpus(folder: Path | None = None) -> Iterator[str]:
    """Yield the tokenizer's training texts; the same ones every time. `folder` holds the skills' YAML."""
    skill, generator = get_skill("bin", folder), get_trainer("bin", folder)
    for level in range(1, skill.max_level + 1):
        for row in generator.sample(level, ROWS_PER_LEVEL, seed=level, mix=_EVEN_MIX):
            yield as_chat(*(message["content"] for message in row["messages"]))
    yield from plain_sentences()


def plain_sentences() -> Iterator[str]:
    """Yield a few hundred sentences and exchanges in plain English."""
    for subject, action in itertools.product(_SUBJECTS, _ACTIONS):
        ending = _ENDINGS[(len(subject) + len(action)) % len(_ENDINGS)]
        yield f"{subject[0].upper()}{subject[1:]} {action} {ending}"
    for question, reply in itertools.permutations(_TALK, 2):
        yield as_chat(question, reply)


def as_chat(question: str, reply: str) -> str:
    """Return one exchange with its roles, as a chat template lays it out, without the markers."""
    return f"user\n{question}\nassistant\n{reply}\n"
