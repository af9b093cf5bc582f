"""Retrieval metrics as `compute_metrics` of a `Seq2SeqTrainer` whose model generates one identifier a passage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import EvalPrediction, PreTrainedTokenizerBase

from dgr_trainer.data.grades import as_qrels
from dgr_trainer.data.ids import as_id
from dgr_trainer.data.texts import as_text
from dgr_trainer.errors import DGRValueError
from dgr_trainer.evaluation.metrics import Metric, evaluate_run
from dgr_trainer.runs.rankings import Rankings

_TEXTS_AT_ONCE = 10_000


class GeneratedIdentifierMetrics:
    """Computes retrieval metrics of unconstrained generation: passages ranked in the order of the beams.

    This is for a `Seq2SeqTrainer` with `predict_with_generate=True`, such as the baseline that you train before
    [`DistillationGenerativeRetrievalTrainer`]; that one has a [`RetrievalEvaluator`], which searches with the index.
    Without an index the model may generate a string that belongs to no passage; it takes a rank and is not relevant.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The model's tokenizer.
        identifiers (`Mapping[str, str]`): Identifier string of each passage id. Passages may share a string. Strings
            are compared as the tokenizer writes them, so that lower case and normal forms make no difference.
        query_ids (`Sequence[str]`): Query of each row of the evaluation dataset, in its order.
        qrels (`Mapping[str, Mapping[str, int]]`): Relevant passages of each query.
        metrics (`Sequence[str]`, defaults to `("hits@1",)`):
            Names of metrics, as in [`evaluate_run`]. Metrics with a cut above 1 need as many sequences a query
            (`generation_config.num_return_sequences`).

    Raises:
        ValueError: if a metric is unknown, no query has qrels, or, when called, the number of generated sequences is
            not a multiple of the number of queries.

    Example:

    ```python
    metrics = GeneratedIdentifierMetrics(tokenizer, titles, eval_queries["query_id"], qrels)
    trainer = Seq2SeqTrainer(model, args, eval_dataset=eval_pairs, compute_metrics=metrics, ...)
    ```
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        identifiers: Mapping[str, str],
        query_ids: Sequence[str],
        qrels: Mapping[str, Mapping[str, int]],
        metrics: Sequence[str] = ("hits@1",),
    ) -> None:
        for name in metrics:
            Metric.parse(name)
        self.tokenizer = tokenizer
        self.query_ids = [as_id(value, "query", f"row {row}") for row, value in enumerate(query_ids)]
        qrels = as_qrels(qrels)
        self.qrels = {query_id: qrels[query_id] for query_id in dict.fromkeys(self.query_ids) if query_id in qrels}
        if not self.qrels:
            raise DGRValueError(
                f"None of the {len(self.query_ids)} queries (such as {self.query_ids[:1]}) has qrels (such as "
                f"{next(iter(qrels), None)!r}). Check that both use the same query ids."
            )
        self.metrics = tuple(metrics)
        texts: dict[str, str] = {}
        for value, text in identifiers.items():
            passage_id = as_id(value, "passage", "identifiers")
            texts[passage_id] = as_text(text, f"identifier of passage {passage_id!r}")
        self._passages: dict[str, list[str]] = {}
        passage_ids = sorted(texts)
        for passage_id, text in zip(passage_ids, self._as_written([texts[id] for id in passage_ids]), strict=True):
            if text:  # One without tokens is not found by a model that writes nothing.
                self._passages.setdefault(text, []).append(passage_id)

    def _as_written(self, texts: Sequence[str]) -> Iterator[str]:
        """Texts as a model that writes their tokens writes them: a tokenizer may change case or composed letters."""
        for start in range(0, len(texts), _TEXTS_AT_ONCE):
            ids = self.tokenizer(list(texts[start : start + _TEXTS_AT_ONCE]), verbose=False)["input_ids"]
            yield from self._written(ids)

    def _written(self, ids: Any) -> list[str]:
        """Texts of rows of token ids, without special tokens and with single spaces."""
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]

    def __call__(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return the mean of each metric; `prediction.predictions` are the generated token ids, padded with -100."""
        predictions = prediction.predictions
        generated = np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions)
        if generated.ndim != 2 or not np.issubdtype(generated.dtype, np.integer):
            raise DGRValueError(
                f"The predictions have the shape {generated.shape} and the type {generated.dtype}, but generated "
                "tokens are integers with two dimensions. Set predict_with_generate=True."
            )
        beams, rest = divmod(len(generated), len(self.query_ids))
        if rest or not beams:
            raise DGRValueError(
                f"{len(generated)} sequences were generated for {len(self.query_ids)} queries, which is not a whole "
                "number for each query. Give the query id of every row of the evaluation dataset; with "
                "num_return_sequences above 1, the number of rows has to be a multiple of the batch size, since the "
                "trainer cuts the last batch to the number of rows."
            )
        pad = self.tokenizer.pad_token_id
        texts = self._written(np.where(generated < 0, 0 if pad is None else pad, generated))
        lists: dict[str, list[str]] = {}
        for number, query_id in enumerate(self.query_ids):
            ranked: list[str] = []
            for beam, text in enumerate(texts[number * beams : (number + 1) * beams]):
                ranked += self._passages.get(text, [f"{query_id} wrote {beam}"])
            lists[query_id] = list(dict.fromkeys(ranked))
        return evaluate_run(Rankings.from_order(lists), self.qrels, self.metrics)
