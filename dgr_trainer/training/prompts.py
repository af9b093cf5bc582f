"""Prompts of queries: tokenised once, before training, and padded for a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher

from dgr_trainer.identifiers import Identifiers

COLUMN = "prompt_ids"


def with_prompts(dataset: datasets.Dataset, identifiers: Identifiers, *, progress: bool = True) -> datasets.Dataset:
    """Add the token ids of the prompts to a dataset of queries, so that nothing is tokenised during training.

    Datasets on disk cache them, and another run with the same tokenizer and prompts reads the cache.

    Args:
        dataset (`datasets.Dataset`): Queries, column `query`.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        `datasets.Dataset`: With a column `prompt_ids`: of each query, the prompt of each view, in the views' order.
    """

    def encode(queries: Sequence[str]) -> dict[str, Any]:
        prompts_by_view = [identifiers.encode_prompts(queries, view) for view in identifiers.views]
        return {COLUMN: [list(prompts) for prompts in zip(*prompts_by_view, strict=True)]}

    features = datasets.Features({name: kind for name, kind in dataset.features.items() if name != COLUMN})
    features[COLUMN] = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
    shown = datasets.is_progress_bar_enabled()
    if shown and not progress:
        datasets.disable_progress_bars()
    try:
        # Hashing the function would hash the tokenizer, whose state changes when it is used.
        ingredients = [dataset._fingerprint, identifiers.fingerprint, sorted(identifiers.settings.to_dict().items())]
        return dataset.with_format(None).map(
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
