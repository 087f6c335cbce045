"""The tokenizer's texts: the same every time, and free of held-out problems."""

from guild.corpus import plain_sentences, squire_corpus
from guild.skills import get_trainer


def test_the_corpus_is_the_same_every_time():
    assert list(squire_corpus()) == list(squire_corpus())


def test_the_corpus_holds_no_held_out_problem():
    assert not any(get_trainer("bin").is_held_out(text) for text in squire_corpus())


def test_there_are_a_few_hundred_plain_sentences():
    sentences = list(plain_sentences())
    assert 300 <= len(sentences) == len(set(sentences))
