"""Prompts of queries: tokenised once, before training, and padded for a batch."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from dgr_trainer.identifiers import Identifiers

logger = logging.getLogger(__name__)

COLUMN = "prompt_ids"
_SHOWN = 60


def with_prompts(
    dataset: datasets.Dataset, identifiers: Identifiers, *, progress: bool = True, report: bool = True
) -> datasets.Dataset:
    """Add the token ids of the prompts to a dataset of queries, so that nothing is tokenised during training.

    A warning says how many queries `max_query_length` cuts. Datasets on disk cache the prompts, and another run with
    the same tokenizer and prompts reads the cache.

    Args:
        dataset (`datasets.Dataset`): Queries, column `query`.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.
        report (`bool`, defaults to `True`): Whether to count queries that are cut, as one of several processes does.

    Returns:
        `datasets.Dataset`: With a column `prompt_ids`: of each query, the prompt of each view, in the views' order.
    """

    def encode(queries: Sequence[str]) -> dict[str, Any]:
        prompts_by_view = [identifiers.encode_prompts(queries, view, False) for view in identifiers.views]
        return {COLUMN: [list(prompts) for prompts in zip(*prompts_by_view, strict=True)]}

    features = datasets.Features({name: kind for name, kind in dataset.features.items() if name != COLUMN})
    features[COLUMN] = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
    shown = datasets.is_progress_bar_enabled()
    if shown and not progress:
        datasets.disable_progress_bars()
    try:
        # Hashing the function would hash the tokenizer, whose state changes when it is used.
        ingredients = [dataset._fingerprint, identifiers.fingerprint, sorted(identifiers.settings.to_dict().items())]
        tokenised = dataset.with_format(None).map(
            encode,
            batched=True,
            input_columns="query",
            features=features,
            new_fingerprint=Hasher.hash(ingredients),
            desc="Tokenising queries",
        )
    finally:
        if shown:
            datasets.enable_progress_bars()
    if report:
        _report_cuts(tokenised, identifiers)
    return tokenised


def _report_cuts(dataset: datasets.Dataset, identifiers: Identifiers) -> None:
    """Say how many queries of a dataset with prompts are cut. Only those with prompts of full length are looked at."""
    limit, num_views = identifiers.settings.max_query_length, len(identifiers.views)
    prompts = dataset.data.column(COLUMN)
    lengths = pc.list_value_length(pc.list_flatten(prompts)).to_numpy().reshape(len(dataset), num_views)
    rows = np.flatnonzero((lengths >= limit).any(axis=1))
    cuts = CutQueries(identifiers)
    for start in range(0, len(rows), 1000):
        queries = dataset.select(rows[start : start + 1000])["query"][:]
        for view in identifiers.views:
            cuts.add(queries, view)
    cuts.report(len(dataset))


class CutQueries:
    """Counts the queries that `max_query_length` cuts.

    Args:
        identifiers ([`Identifiers`]): The student's tokenizer and prompts.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.identifiers = identifiers
        self.limit = identifiers.settings.max_query_length
        self.queries: set[str] = set()
        self.longest = 0

    def add(self, queries: Sequence[str], view: str) -> None:
        """Count those of some queries whose prompts of a view are cut."""
        for query, length in zip(queries, self.identifiers.prompt_lengths(queries, view), strict=True):
            if length > self.limit:
                self.queries.add(query)
                self.longest = max(self.longest, length)

    def report(self, total: int | None = None) -> None:
        """Warn of the queries that are cut, if there are any, out of a total number."""
        if self.queries:
            example = min(self.queries)
            logger.warning(
                "%s%s queries are cut to max_query_length=%d tokens and lose their last words (the longest has %s), "
                "for example %r. To keep them whole, set IdentifierSettings(max_query_length=...) or, on the command "
                "line, --max_query_length.",
                f"{len(self.queries):,}",
                "" if total is None else f" of {total:,}",
                self.limit,
                f"{self.longest:,}",
                example if len(example) <= _SHOWN else example[:_SHOWN] + "…",
            )


def padded_prompts(
    features: Sequence[Mapping[str, Any]], views: Sequence[str], identifiers: Identifiers
) -> dict[str, np.ndarray]:
    """Pad the prompts of some views on the right; tokenise them first if the features have no `prompt_ids`.

    Args:
        features (`Sequence[Mapping[str, Any]]`): Queries, with `prompt_ids` or `query`.
        views (`Sequence[str]`): V of the views.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.

    Returns:
        `dict[str, np.ndarray]`: `input_ids` and `attention_mask` of shape `(B, V, L)`, int64.
    """
    if COLUMN in features[0]:
        columns = [identifiers.views.index(view) for view in views]
        prompts = [[feature[COLUMN][column] for feature in features] for column in columns]
    else:
        prompts = [identifiers.encode_prompts([feature["query"] for feature in features], view) for view in views]
    longest = max(len(ids) for view_prompts in prompts for ids in view_prompts)
    pad = identifiers.tokenizer.pad_token_id
    input_ids = np.full((len(features), len(views), longest), pad, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for v, view_prompts in enumerate(prompts):
        for b, ids in enumerate(view_prompts):
            input_ids[b, v, : len(ids)] = ids
            attention_mask[b, v, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
