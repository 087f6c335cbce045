"""Profiles: what is dressed can be undressed, deterministically, and unknown names are told."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arena.trainers.sft.profiles import Profile, get_profile, profile_names, register
from realm.errors import ConfigError
from tests.arena.training_kit import addition_rows

_LINE = st.text(
    st.characters(blacklist_categories=("Cs", "Cc"), blacklist_characters="🤔💭🧠💡🛑⛔🚫✋⊢∴∎\u2028\u2029")
)
_ANSWER = st.lists(_LINE, min_size=1, max_size=4).map("\n".join).map(str.strip)


def test_three_profiles_come_with_the_realm() -> None:
    assert {"plain_sft", "emoji_think", "regime3"} <= set(profile_names())


@pytest.mark.parametrize("name", ["plain_sft", "emoji_think", "regime3"])
@settings(max_examples=100, deadline=None)
@given(question=_LINE, answer=_ANSWER)
def test_answer_undoes_dress(name: str, question: str, answer: str) -> None:
    profile = get_profile(name)
    row = {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
    dressed = profile.dress(row)
    assert profile.answer(dressed["messages"][-1]["content"]) == answer
    assert dressed == profile.dress(row)
    assert row["messages"][-1]["content"] == answer  # the row itself is left alone


def test_emoji_vary_with_the_question_and_the_prompt_says_which() -> None:
    profile = get_profile("emoji_think")
    seen = set()
    for row in addition_rows(60, bits=6):
        user, assistant = (m["content"] for m in profile.dress(row)["messages"])
        think, stop = user.rsplit("\n", 1)[1].split(" … ")
        assert assistant.startswith(think + "\n")
        assert assistant.endswith("\n" + stop)
        seen.add((think, stop))
    assert len(seen) > 10


def test_texts_are_not_dressed() -> None:
    assert get_profile("emoji_think").dress({"text": "a"}) == {"text": "a"}


def test_penalties_name_texts_and_push_down() -> None:
    for name in ("emoji_think", "regime3"):
        assert all(penalty.bias < 0 and penalty.text for penalty in get_profile(name).penalties)


def test_unknown_and_doubled_names_are_errors() -> None:
    with pytest.raises(ConfigError, match="plain_sft"):
        get_profile("nonsense")
    with pytest.raises(ConfigError):
        register(Profile("plain_sft", "", dress=lambda row: row, answer=lambda text: text))
