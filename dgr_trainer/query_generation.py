"""Pseudo-queries for a corpus that has none: a model reads each passage and generates queries that it answers.

The method is that of doc2query (Nogueira et al. 2019, Document Expansion by Query Prediction), with the sampling of
docTTTTTquery and, optionally, the round-trip filter of Promptagator (Dai et al. 2023): a query is kept if a retriever
finds its passage.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from string import Formatter
from typing import Any, Protocol

import torch
from tqdm.auto import tqdm
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    StoppingCriteriaList,
)

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.data.passages import Passage
from dgr_trainer.data.pseudo_queries import PseudoQueries, read_pseudo_queries
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_write
from dgr_trainer.files.compression import plain_name
from dgr_trainer.files.lines import file_kind
from dgr_trainer.files.progress import kept_moving
from dgr_trainer.processes import Processes, from_main, is_main_process
from dgr_trainer.processes.shared_log import SharedLog
from dgr_trainer.runs.rankings import Rankings
from dgr_trainer.student.loading import load_model, seq2seq_logits
from dgr_trainer.student.model_facts import decoder_position_limit
from dgr_trainer.student.weights import align_weights, weights_digest

logger = logging.getLogger(__name__)

_PASSAGES_AT_ONCE = 64
"""Number of passages per chunk of the log. The sampled queries depend on it."""


class Searcher(Protocol):
    """Anything that searches the corpus for queries, such as [`BM25Teacher`]."""

    def rank(self, queries: Mapping[str, str], *, k: int) -> Rankings:
        """Return the best `k` passages of each query."""


class PseudoQueryGenerator:
    """Generates pseudo-queries with a sequence-to-sequence model such as `castorini/doc2query-t5-base-msmarco`.

    The queries of a passage depend on the seed and on its position in the corpus, not on interruptions.

    Args:
        model (`str`, `os.PathLike` or [`~transformers.PreTrainedModel`]): The model, or its folder or name on the
            hub.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`], *optional*): Its tokenizer; by default the one that
            was saved with it.
        template (`str`, defaults to `"{text}"`): Input of the model, of `{title}` and `{text}`. If the input of a
            passage is empty, its title is read.
        queries_per_passage (`int`, defaults to 5): Number of queries to sample; duplicates are dropped.
        top_k (`int`, defaults to 10): Number of tokens to sample from at each step.
        temperature (`float`, defaults to 1.0): Temperature of the sampling.
        max_new_tokens (`int`, defaults to 64): Maximum length of a query.
        max_passage_tokens (`int`, defaults to 512): Number of tokens at which passages are cut.
        batch_tokens (`int`, defaults to 8192): Maximum number of passage tokens of a batch, padding included.
        seed (`int`, defaults to 42): Seed of the sampling.
        device (`str`, *optional*): Such as `"cuda:1"`; by default a GPU if there is one.
        dtype (`str`, defaults to `"float32"`): Precision in which a model is loaded by name.

    Raises:
        ValueError: if the template has no field, a number is not positive, or the model is not
            sequence-to-sequence or lacks weights.

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
        positive = {
            "queries_per_passage": queries_per_passage,
            "top_k": top_k,
            "max_new_tokens": max_new_tokens,
            "max_passage_tokens": max_passage_tokens,
            "batch_tokens": batch_tokens,
        }
        too_small = [f"{name}={value}" for name, value in positive.items() if value < 1]
        if too_small or not temperature > 0:
            raise DGRValueError(f"{', '.join(too_small) or f'temperature={temperature}'}: has to be above 0.")
        try:
            template.format(title="t", text="t")
        except (KeyError, IndexError, ValueError) as error:
            raise DGRValueError(
                f"template {template!r} has fields other than {{title}} and {{text}} ({error!r}). Leave them out."
            ) from None
        if all(field is None for _, field, _, _ in Formatter().parse(template)):
            raise DGRValueError(
                f"template {template!r} has no field, so the model would read the same text for every passage. Put in "
                "{title} or {text}."
            )
        if isinstance(model, PreTrainedModel):
            if tokenizer is None:
                raise DGRValueError("The model was given without its tokenizer. Give both, or the name of the model.")
            self.model = model
        else:
            with input_errors(f"The model {model} cannot be loaded", Exception):
                self.model = load_model(AutoModelForSeq2SeqLM, model, seq2seq_logits, dtype=getattr(torch, dtype))
                tokenizer = AutoTokenizer.from_pretrained(model) if tokenizer is None else tokenizer
        if not self.model.config.is_encoder_decoder:
            raise DGRValueError(
                f"{type(self.model).__name__} is not a sequence-to-sequence model. Give one, such as T5 or BART."
            )
        positions = decoder_position_limit(self.model)
        if positions is not None and max_new_tokens >= positions:
            raise DGRValueError(
                f"max_new_tokens={max_new_tokens}, but the decoder of {type(self.model).__name__} has {positions} "
                "positions, one of which is the start token. Give a smaller number."
            )
        module: torch.nn.Module = align_weights(self.model)
        module.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()
        self.tokenizer = tokenizer
        self.template = template
        self.queries_per_passage = queries_per_passage
        self.max_passage_tokens = max_passage_tokens
        self.batch_tokens = batch_tokens
        self.seed = seed
        self._bar: Any = tqdm(disable=True)  # that of `generate`, while it runs
        self._num_processes = 1
        self.sampling = {"top_k": top_k, "temperature": temperature, "max_new_tokens": max_new_tokens}

    def generate(
        self,
        corpus: Corpus,
        path: str | os.PathLike[str],
        *,
        round_trip: Searcher | None = None,
        round_trip_k: int = 10,
        progress: bool = True,
        accelerator: Processes | None = None,
    ) -> PseudoQueries:
        """Generate pseudo-queries for every passage of a corpus.

        Unfinished work is in the file `path` with `.unfinished` after its name (and a number, for all processes but
        the first), from which the same call resumes after an interruption, with any number of processes.

        Args:
            corpus ([`Corpus`]): The passages.
            path (`str` or `os.PathLike`): File to write, such as `pseudo-queries.jsonl`: JSON Lines with `id` and
                `pseudo_queries`, which [`read_pseudo_queries`] reads.
            round_trip ([`Searcher`], *optional*): If given, a query is kept only if this searcher, such as
                `BM25Teacher(corpus)`, finds its passage among the first `round_trip_k`.
            round_trip_k (`int`, defaults to 10): See `round_trip`.
            progress (`bool`, defaults to `True`): Whether to show a progress bar.
            accelerator ([`~accelerate.Accelerator`] or [`~accelerate.PartialState`], *optional*): The processes that
                share the passages; each of them calls this with the same arguments, and needs the same disk.

        Returns:
            [`PseudoQueries`]: The queries of each passage.

        Raises:
            FileExistsError: if `path` exists.
            RuntimeError: if another job is writing the same file; names its process.
            ValueError: if the name of the file is not that of JSON Lines, the unfinished file is of another corpus,
                model or settings, or no query passes the filter.
        """
        path = Path(path)
        if path.exists():
            raise FileExistsError(f"{path} exists already. Read it with read_pseudo_queries, or give another path.")
        if file_kind(path) != "jsonl" or plain_name(path) != path.name:
            raise DGRValueError(
                f"{path}: pseudo-queries are written as JSON Lines, and the name of a file says how it is read. "
                "Name it .jsonl."
            )
        if round_trip_k < 1:
            raise DGRValueError(f"round_trip_k={round_trip_k}: has to be above 0.")
        settings = self._settings(corpus) | {
            "round_trip": None if round_trip is None else type(round_trip).__name__,
            "round_trip_k": None if round_trip is None else round_trip_k,
        }
        with SharedLog(
            path.with_name(f"{path.name}.unfinished"),
            str(path),
            settings,
            -(-len(corpus) // _PASSAGES_AT_ONCE),
            lambda chunk: corpus.position(chunk["ids"][0]) // _PASSAGES_AT_ONCE,
            processes=accelerator,
        ) as log:
            self._make_share(corpus, log, round_trip, round_trip_k, progress)
            generated, kept = self._write(path, log)
            if not kept:
                raise DGRValueError(
                    f"None of the {generated} queries generated for {len(corpus)} passages is kept. "
                    "Raise round_trip_k, or try another model."
                )
            log.remove()
        if is_main_process(accelerator):
            share = "" if round_trip is None else f", of which {kept:,} ({kept / generated:.0%}) find their passage"
            logger.info("%s: %d different queries for %d passages%s.", path, generated, len(corpus), share)
        return read_pseudo_queries(path)

    def _make_share(
        self, corpus: Corpus, log: SharedLog, round_trip: Searcher | None, round_trip_k: int, progress: bool
    ) -> None:
        """Generate the queries of the chunks of passages that this process is to make."""
        hidden = not progress or not is_main_process(log.processes)
        with (
            tqdm(total=len(corpus), desc="Writing pseudo-queries", unit=" passages", disable=hidden) as bar,
            kept_moving(bar),
        ):
            self._bar, self._num_processes = bar, log.num_processes
            # The progress of this process represents that of the others.
            bar.update(min(len(log.finished) * _PASSAGES_AT_ONCE, len(corpus)))
            for number in log.share():
                start = number * _PASSAGES_AT_ONCE
                passages = corpus[start : start + _PASSAGES_AT_ONCE]
                queries = self._sample(passages, start)
                made = sum(map(len, queries))
                if round_trip is not None:
                    bar.set_postfix_str(f"searching for {made} queries", refresh=False)
                    queries = queries_that_find(passages, queries, round_trip, round_trip_k)
                log.add({"ids": [passage.id for passage in passages], "queries": queries, "made": made})

    def _write(self, path: Path, log: SharedLog) -> tuple[int, int]:
        """Write the file in the first process. Returns the numbers of generated and of kept queries, in all."""
        generated = kept = 0
        with ExitStack() as stack:
            file = stack.enter_context(atomic_write(path)) if is_main_process(log.processes) else None
            for chunk in log.chunks():
                assert file is not None
                generated, kept = generated + chunk["made"], kept + sum(map(len, chunk["queries"]))
                for id, queries in zip(chunk["ids"], chunk["queries"], strict=True):
                    file.write(json.dumps({"id": id, "pseudo_queries": queries}, ensure_ascii=False) + "\n")
        return from_main((generated, kept), log.processes)

    def _sample(self, passages: Sequence[Passage], start: int) -> list[list[str]]:
        """Sample queries for consecutive passages, the first of which is at position `start` of the corpus.

        The progress bar counts the passages of each batch, and shows the tokens of its queries.
        """
        bar = self._bar

        def show_token(ids: torch.Tensor, _: Any, **__: Any) -> torch.Tensor:
            bar.set_postfix_str(f"token {ids.shape[1]} of at most {self.sampling['max_new_tokens']}", refresh=False)
            return torch.zeros(len(ids), dtype=torch.bool, device=ids.device)  # Do not stop.

        inputs = self.tokenizer(
            [self._text(passage) for passage in passages], truncation=True, max_length=self.max_passage_tokens
        )["input_ids"]
        queries: list[list[str]] = [[] for _ in passages]
        generate: Any = self.model.generate
        devices = [self.model.device] if self.model.device.type == "cuda" else []
        with torch.random.fork_rng(devices), torch.inference_mode():
            torch.manual_seed(int(hashlib.sha256(f"{self.seed} {start}".encode()).hexdigest()[:15], 16))
            for batch in self._batches(inputs):
                padded = self.tokenizer.pad({"input_ids": [inputs[index] for index in batch]}, return_tensors="pt")
                generated = generate(
                    **padded.to(self.model.device),
                    do_sample=True,
                    num_beams=1,
                    num_return_sequences=self.queries_per_passage,
                    stopping_criteria=StoppingCriteriaList([show_token]),
                    **self.sampling,
                )
                texts = [
                    " ".join(text.split()) for text in self.tokenizer.batch_decode(generated, skip_special_tokens=True)
                ]
                for row, index in enumerate(batch):
                    samples = texts[row * self.queries_per_passage : (row + 1) * self.queries_per_passage]
                    queries[index] = [text for text in dict.fromkeys(samples) if text]
                bar.update(min(len(batch) * self._num_processes, (bar.total or 0) - bar.n))
        return queries

    def _batches(self, inputs: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Yield batches of indices of inputs of similar length, longest first, that fit `batch_tokens` when padded."""
        batch: list[int] = []
        for index in sorted(range(len(inputs)), key=lambda index: (-len(inputs[index]), index)):
            if batch and len(inputs[batch[0]]) * (len(batch) + 1) > self.batch_tokens:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _text(self, passage: Passage) -> str:
        text = " ".join(self.template.format(title=passage.title, text=passage.text).split())
        return text or passage.title

    def _settings(self, corpus: Corpus) -> dict[str, Any]:
        """Return everything that the queries depend on."""
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


def queries_that_find(
    passages: Sequence[Passage], queries: Sequence[Sequence[str]], searcher: Searcher, k: int
) -> list[list[str]]:
    """Keep the queries for which a search finds the passage that they were generated from.

    Args:
        passages (`Sequence[Passage]`): Passages of the corpus that is searched.
        queries (`Sequence[Sequence[str]]`): Queries of each passage.
        searcher ([`Searcher`]): Searches the corpus.
        k (`int`): Lowest rank at which the passage counts as found.

    Returns:
        `list[list[str]]`: The kept queries of each passage.
    """
    texts = {
        f"{row}-{number}": query
        for row, passage_queries in enumerate(queries)
        for number, query in enumerate(passage_queries)
    }
    if not texts:
        return [[] for _ in passages]
    rankings = searcher.rank(texts, k=k)

    def finds(row: int, number: int) -> bool:
        query_id = f"{row}-{number}"
        return query_id in rankings and passages[row].id in rankings[query_id].passage_ids

    return [
        [query for number, query in enumerate(passage_queries) if finds(row, number)]
        for row, passage_queries in enumerate(queries)
    ]
