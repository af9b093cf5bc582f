"""Pseudo-queries for a corpus that has none: a model reads each passage and writes queries that it answers.

The method is doc2query's (Nogueira et al. 2019, Document Expansion by Query Prediction), with the sampling of
docTTTTTquery and, if asked for, the round-trip filter of Promptagator (Dai et al. 2023): a query is kept if a
retriever finds its passage for it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.pseudo_queries import PseudoQueries, read_pseudo_queries
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.resume_log import ResumeLog
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.weights import align_weights, weights_digest

logger = logging.getLogger(__name__)

_PASSAGES_AT_ONCE = 64
"""Passages that are written down together. What is sampled for them depends on this number."""


class Searcher(Protocol):
    """Anything that searches the corpus for queries, such as [`BM25Teacher`]."""

    def rank(self, queries: Mapping[str, str], *, k: int) -> Rankings:
        """The best `k` passages of each query."""


class PseudoQueryGenerator:
    """Writes pseudo-queries with a sequence-to-sequence model such as `castorini/doc2query-t5-base-msmarco`.

    What is sampled for a passage depends on the seed and on its place in the corpus, not on interruptions.

    Args:
        model (`str`, `os.PathLike` or [`~transformers.PreTrainedModel`]): The model, or its name.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Its tokenizer; by default the one saved with
            it.
        template (`str`, defaults to `"{text}"`): What the model reads of a passage, with `{title}` and `{text}`. A
            passage of which nothing is left over has its title read.
        queries_per_passage (`int`, defaults to 5): Queries to sample; equal ones count once.
        top_k (`int`, defaults to 10): Tokens to sample from, at each step.
        temperature (`float`, defaults to 1.0): Of the sampling.
        max_new_tokens (`int`, defaults to 64): Longest query.
        max_passage_tokens (`int`, defaults to 512): Longer passages are cut.
        batch_tokens (`int`, defaults to 8192): Passage tokens, padding included, in a batch.
        seed (`int`, defaults to 42): Of the sampling.
        device (`str`, *optional*): Such as `"cuda:1"`; by default a GPU if there is one.
        dtype (`str`, defaults to `"float32"`): Precision in which a model is loaded by name.

    Raises:
        ValueError: on a template without a field, numbers below their least, or a model that is not
            sequence-to-sequence.

    Example:

    ```python
    generator = PseudoQueryGenerator("castorini/doc2query-t5-base-msmarco")
    corpus = corpus.with_pseudo_queries(generator.generate(corpus, "pseudo-queries.jsonl"))
    ```
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        template: str = "{text}",
        queries_per_passage: int = 5,
        top_k: int = 10,
        temperature: float = 1.0,
        max_new_tokens: int = 64,
        max_passage_tokens: int = 512,
        batch_tokens: int = 8192,
        seed: int = 42,
        device: str | None = None,
        dtype: str = "float32",
    ) -> None:
        least = {
            "queries_per_passage": queries_per_passage,
            "top_k": top_k,
            "max_new_tokens": max_new_tokens,
            "max_passage_tokens": max_passage_tokens,
            "batch_tokens": batch_tokens,
        }
        wrong = [f"{name}={value}" for name, value in least.items() if value < 1]
        if wrong or not temperature > 0:
            raise DGRValueError(f"{', '.join(wrong) or f'temperature={temperature}'}: has to be above 0.")
        try:
            read = template.format(title="t", text="t")
        except (KeyError, IndexError, ValueError) as error:
            raise DGRValueError(
                f"template {template!r} has fields besides {{title}} and {{text}} ({error!r})."
            ) from None
        if read == template:
            raise DGRValueError(
                f"template {template!r} has no field, so the model would read the same of every passage."
            )
        if isinstance(model, PreTrainedModel):
            if tokenizer is None:
                raise DGRValueError("The model was given without its tokenizer. Give both, or the name of the model.")
            self.model = model
        else:
            with input_errors(f"The model {model} cannot be loaded", Exception):
                self.model = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=getattr(torch, dtype))
                tokenizer = AutoTokenizer.from_pretrained(model) if tokenizer is None else tokenizer
        if not self.model.config.is_encoder_decoder:
            raise DGRValueError(f"{type(self.model).__name__} is no sequence-to-sequence model, such as T5 or BART.")
        module: torch.nn.Module = align_weights(self.model)
        module.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self.tokenizer = tokenizer
        self.template = template
        self.queries_per_passage = queries_per_passage
        self.max_passage_tokens = max_passage_tokens
        self.batch_tokens = batch_tokens
        self.seed = seed
        self.sampling = {"top_k": top_k, "temperature": temperature, "max_new_tokens": max_new_tokens}

    def generate(
        self,
        corpus: Corpus,
        path: str | os.PathLike[str],
        *,
        round_trip: Searcher | None = None,
        round_trip_k: int = 10,
        progress: bool = True,
    ) -> PseudoQueries:
        """Write pseudo-queries for every passage of a corpus.

        As long as it works, the queries are in `path` with `.unfinished` after its name. The same call after an
        interruption goes on from there.

        Args:
            corpus ([`Corpus`]): The passages.
            path (`str` or `os.PathLike`): The file of the result, JSON Lines with `id` and `pseudo_queries`, which
                [`read_pseudo_queries`] reads.
            round_trip ([`Searcher`], *optional*): Keep a query only if this, such as `BM25Teacher(corpus)`, finds its
                passage among the first `round_trip_k`.
            round_trip_k (`int`, defaults to 10): See `round_trip`.
            progress (`bool`, defaults to `True`): Show a progress bar.

        Returns:
            [`PseudoQueries`]

        Raises:
            FileExistsError: if `path` is there.
            ValueError: if what is unfinished was made of another corpus, model or settings, or no query is left.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} is there already. Read it with read_pseudo_queries, or give another path.")
        if round_trip_k < 1:
            raise DGRValueError(f"round_trip_k={round_trip_k}: has to be above 0.")
        settings = self._settings(corpus) | {
            "round_trip": None if round_trip is None else type(round_trip).__name__,
            "round_trip_k": None if round_trip is None else round_trip_k,
        }
        made = kept = 0
        with ResumeLog(path.with_name(f"{path.name}.unfinished"), settings) as log:
            with tqdm(total=len(corpus), desc="Pseudo-queries", unit=" passages", disable=not progress) as bar:
                for chunk in log.chunks():
                    made, kept = made + chunk["made"], kept + sum(map(len, chunk["queries"]))
                    bar.update(len(chunk["queries"]))
                for start in range(log.count * _PASSAGES_AT_ONCE, len(corpus), _PASSAGES_AT_ONCE):
                    passages = corpus[start : start + _PASSAGES_AT_ONCE]
                    queries = self._sample(passages, start)
                    new = sum(map(len, queries))
                    if round_trip is not None:
                        queries = found_again(passages, queries, round_trip, round_trip_k)
                    log.add({"ids": [passage.id for passage in passages], "queries": queries, "made": new})
                    made, kept = made + new, kept + sum(map(len, queries))
                    bar.update(len(passages))
            if not kept:
                raise DGRValueError(f"None of the {made} queries that were made for {len(corpus)} passages is left.")
            with atomic_write(path) as file:
                for chunk in log.chunks():
                    for id, of in zip(chunk["ids"], chunk["queries"], strict=True):
                        file.write(json.dumps({"id": id, "pseudo_queries": of}, ensure_ascii=False) + "\n")
            log.remove()
        again = "" if round_trip is None else f", of which {kept:,} ({kept / made:.0%}) find them again"
        logger.info("%s: %d different queries for %d passages%s.", path, made, len(corpus), again)
        return read_pseudo_queries(path)

    def _sample(self, passages: Sequence[Passage], start: int) -> list[list[str]]:
        """Queries of some passages, the first of which is at the place `start` of the corpus."""
        inputs = self.tokenizer(
            [self._text(passage) for passage in passages], truncation=True, max_length=self.max_passage_tokens
        )["input_ids"]
        queries: list[list[str]] = [[] for _ in passages]
        generate: Any = self.model.generate
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(int(hashlib.sha256(f"{self.seed} {start}".encode()).hexdigest()[:15], 16))
            for batch in self._batches(inputs):
                padded = self.tokenizer.pad({"input_ids": [inputs[place] for place in batch]}, return_tensors="pt")
                written = generate(
                    **padded.to(self.model.device),
                    do_sample=True,
                    num_beams=1,
                    num_return_sequences=self.queries_per_passage,
                    **self.sampling,
                )
                texts = [
                    " ".join(text.split()) for text in self.tokenizer.batch_decode(written, skip_special_tokens=True)
                ]
                for number, place in enumerate(batch):
                    own = texts[number * self.queries_per_passage : (number + 1) * self.queries_per_passage]
                    queries[place] = [text for text in dict.fromkeys(own) if text]
        return queries

    def _batches(self, inputs: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Places of inputs of similar length, longest first, so many that they fit a batch when padded."""
        batch: list[int] = []
        for place in sorted(range(len(inputs)), key=lambda place: (-len(inputs[place]), place)):
            if batch and len(inputs[batch[0]]) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _text(self, passage: Passage) -> str:
        text = " ".join(self.template.format(title=passage.title, text=passage.text).split())
        return text or passage.title

    def _settings(self, corpus: Corpus) -> dict[str, Any]:
        """What the queries depend on."""
        return {
            "corpus": corpus.fingerprint,
            "weights": weights_digest(self.model),
            "template": self.template,
            "queries_per_passage": self.queries_per_passage,
            "max_passage_tokens": self.max_passage_tokens,
            "batch_tokens": self.batch_tokens,
            "seed": self.seed,
            **self.sampling,
        }


def found_again(
    passages: Sequence[Passage], queries: Sequence[Sequence[str]], searcher: Searcher, k: int
) -> list[list[str]]:
    """The queries for which a search finds the passage that they were made of.

    Args:
        passages (`Sequence[Passage]`): Passages of the corpus that is searched.
        queries (`Sequence[Sequence[str]]`): Queries of each.
        searcher ([`Searcher`]): Searches the corpus.
        k (`int`): Down to which rank the passage counts as found.

    Returns:
        `list[list[str]]`: What is left, for each passage.
    """
    asked = {f"{number}-{place}": query for number, of in enumerate(queries) for place, query in enumerate(of)}
    if not asked:
        return [[] for _ in passages]
    found = searcher.rank(asked, k=k)

    def again(number: int, place: int) -> bool:
        name = f"{number}-{place}"
        return name in found and passages[number].id in found[name].passage_ids

    return [[query for place, query in enumerate(of) if again(number, place)] for number, of in enumerate(queries)]
