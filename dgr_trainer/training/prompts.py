"""Prompts of queries: tokenised once, before training, and padded for a batch."""

import copy
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc
from datasets.fingerprint import Hasher

from dgr_trainer.errors import DGRValueError
from dgr_trainer.identifiers import Identifiers
from dgr_trainer.identifiers.unknown_text import shortened

logger = logging.getLogger(__name__)

COLUMN = "prompt_ids"


def with_prompts(
    dataset: datasets.Dataset, identifiers: Identifiers, *, progress: bool = True, report: bool = True
) -> datasets.Dataset:
    """Add the token ids of the prompts to a dataset of queries, so that nothing is tokenised during training.

    Warnings say how many queries `max_query_length` cuts, and how many the tokenizer does not know. Datasets on disk
    cache the prompts, and another run with the same tokenizer and prompts reads the cache.

    Args:
        dataset (`datasets.Dataset`): Queries, column `query`.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.
        report (`bool`, defaults to `True`): Whether to count these, as one of several processes does.

    Returns:
        `datasets.Dataset`: With a column `prompt_ids`: of each query, the prompt of each view, in the views' order. An
            empty dataset stays as it is.

    Raises:
        ValueError: if the tokenizer knows no letter of most queries.
    """
    if not len(dataset):  # `map` returns an empty dataset as it is, without the column.
        return dataset

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
        ingredients += [identifiers.prompt("", view) for view in identifiers.views]  # Chat templates differ.
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
        _report_losses(tokenised, identifiers)
    return tokenised


def _report_losses(dataset: datasets.Dataset, identifiers: Identifiers) -> None:
    """Say how many queries of a dataset with prompts are cut or not known to the tokenizer.

    Only queries with prompts of full length and with unknown tokens are looked at.
    """
    num_views = len(identifiers.views)
    prompts = pc.list_flatten(dataset.data.column(COLUMN))
    lengths = pc.list_value_length(prompts).to_numpy()
    losses = LostQueries(identifiers)
    is_full = (lengths >= losses.limit).reshape(len(dataset), num_views).any(axis=1)
    for queries in _queries(dataset, np.flatnonzero(is_full)):
        losses.add_cut(queries, identifiers.views)
    if losses.unknown is not None:
        tokens = pc.list_flatten(prompts).to_numpy()
        prompt_of = np.searchsorted(np.cumsum(lengths), np.flatnonzero(tokens == losses.unknown), side="right")
        for queries in _queries(dataset, np.unique(prompt_of // num_views)):
            losses.add_unknown(queries)
    losses.report(len(dataset))


def _queries(dataset: datasets.Dataset, rows: np.ndarray) -> Iterator[list[str]]:
    for start in range(0, len(rows), 1000):
        yield dataset.select(rows[start : start + 1000])["query"][:]


class LostQueries:
    """Counts queries that lose text: those that `max_query_length` cuts, and those that the tokenizer does not know.

    Args:
        identifiers ([`Identifiers`]): The student's tokenizer and prompts.

    Attributes:
        limit (`int`): Length from which on a prompt may be cut.
        unknown (`int`, *optional*): The unknown token.
    """

    def __init__(self, identifiers: Identifiers) -> None:
        self.identifiers = identifiers
        self.limit = identifiers.settings.max_query_length
        self.unknown: int | None = identifiers.tokenizer.unk_token_id
        self._begin()

    def _begin(self) -> None:
        self._num_cut = self._longest = self._num_unknown = self._num_lost = 0
        self._cut_example = self._unknown_example = ""

    def add_cut(self, queries: Sequence[str], views: Sequence[str]) -> None:
        """Count those of some queries of which a prompt, of one of these views, is cut."""
        lengths = [self.identifiers.prompt_lengths(queries, view) for view in views]
        for query, length in zip(queries, map(max, zip(*lengths, strict=True)), strict=True):
            if length > self.limit:
                self._num_cut += 1
                self._longest = max(self._longest, length)
                self._cut_example = self._cut_example or query

    def add_unknown(self, queries: Sequence[str]) -> None:
        """Count those of some queries that hold unknown tokens."""
        for query, ids in zip(queries, self.identifiers.encode_substrings(queries), strict=True):
            if self.unknown in ids:
                known = self.identifiers.decode([token for token in ids if token != self.unknown])
                self._num_unknown += 1
                self._num_lost += not any(map(str.isalnum, known))
                self._unknown_example = self._unknown_example or query

    def taken(self) -> "LostQueries":
        """What was counted since the last call, for `merge` in another process; the counting begins anew."""
        counted = copy.copy(self)
        self._begin()
        return counted

    def merge(self, other: "LostQueries") -> None:
        """Add what was counted of other queries, those after these."""
        self._num_cut += other._num_cut
        self._longest = max(self._longest, other._longest)
        self._num_unknown += other._num_unknown
        self._num_lost += other._num_lost
        self._cut_example = self._cut_example or other._cut_example
        self._unknown_example = self._unknown_example or other._unknown_example

    def __getstate__(self) -> dict[str, Any]:
        # Between processes, counts travel without the tokenizer.
        return {name: value for name, value in vars(self).items() if name != "identifiers"}

    def report(self, total: int, what: str = "queries") -> None:
        """Warn of the queries that lose text.

        Args:
            total (`int`): Number of all queries.
            what (`str`, defaults to `"queries"`): What they are called.

        Raises:
            ValueError: if more than half of the queries are lost, without a letter that the tokenizer knows.
        """
        if 2 * self._num_lost > total:
            raise DGRValueError(
                f"The tokenizer knows no letter of {self._num_lost:,} of {total:,} {what}, for example "
                f"{shortened(self._unknown_example)}, so they are all the same to the student. Use one whose "
                "tokenizer knows the script, such as a multilingual or a byte-level one."
            )
        if self._num_unknown:
            logger.warning(
                "%s of %s %s hold text that the tokenizer does not know and replaces by unknown tokens, for "
                "example %s.",
                f"{self._num_unknown:,}",
                f"{total:,}",
                what,
                shortened(self._unknown_example),
            )
        if self._num_cut:
            logger.warning(
                "%s of %s %s are cut to max_query_length=%d tokens and lose their last words (the longest has %s), "
                "for example %s. To keep them whole, set IdentifierSettings(max_query_length=...) or, on the command "
                "line, --max_query_length.",
                f"{self._num_cut:,}",
                f"{total:,}",
                what,
                self.limit,
                f"{self._longest:,}",
                shortened(self._cut_example),
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
