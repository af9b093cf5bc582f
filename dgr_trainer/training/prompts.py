"""Prompts of queries: tokenised once, ahead of training, and padded for a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import datasets
import numpy as np
from datasets.fingerprint import Hasher

from dgr_trainer.identifiers import Identifiers

COLUMN = "prompt_ids"


def with_prompts(dataset: datasets.Dataset, identifiers: Identifiers, *, progress: bool = True) -> datasets.Dataset:
    """Add the token ids of the prompts to a dataset of queries, so that nothing is tokenised during training.

    Datasets on disk keep them in their cache, and another run with the same tokenizer and prompts finds them there.

    Args:
        dataset (`datasets.Dataset`): Queries, column `query`.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.
        progress (`bool`, defaults to `True`): Whether to show a progress bar.

    Returns:
        `datasets.Dataset`: With a column `prompt_ids`: of each query, the prompt of each view, in the views' order.
    """

    def encode(queries: Sequence[str]) -> dict[str, Any]:
        of_views = [identifiers.encode_prompts(queries, view) for view in identifiers.views]
        return {COLUMN: [list(of_query) for of_query in zip(*of_views, strict=True)]}

    features = datasets.Features({name: kind for name, kind in dataset.features.items() if name != COLUMN})
    features[COLUMN] = datasets.Sequence(datasets.Sequence(datasets.Value("int32")))
    shown = datasets.is_progress_bar_enabled()
    if shown and not progress:
        datasets.disable_progress_bars()
    try:
        # Hashing the function would hash the tokenizer, which changes as it works.
        made_of = [dataset._fingerprint, identifiers.fingerprint, sorted(identifiers.settings.to_dict().items())]
        return dataset.with_format(None).map(
            encode,
            batched=True,
            input_columns="query",
            features=features,
            new_fingerprint=Hasher.hash(made_of),
            desc="Tokenising queries",
        )
    finally:
        if shown:
            datasets.enable_progress_bars()


def padded_prompts(
    features: Sequence[Mapping[str, Any]], views: Sequence[str], identifiers: Identifiers
) -> dict[str, np.ndarray]:
    """Prompts of some views, padded on the right; tokenised here, if that was not done ahead.

    Args:
        features (`Sequence[Mapping[str, Any]]`): Queries, with `prompt_ids` or `query`.
        views (`Sequence[str]`): V of the views.
        identifiers ([`Identifiers`]): The student's tokenizer, views and prompts.

    Returns:
        `dict[str, np.ndarray]`: `input_ids` and `attention_mask` of shape `(B, V, L)`, int64.
    """
    if COLUMN in features[0]:
        places = [identifiers.views.index(view) for view in views]
        prompts = [[feature[COLUMN][place] for feature in features] for place in places]
    else:
        prompts = [identifiers.encode_prompts([feature["query"] for feature in features], view) for view in views]
    longest = max(len(ids) for of_view in prompts for ids in of_view)
    pad = identifiers.tokenizer.pad_token_id
    input_ids = np.full((len(features), len(views), longest), pad, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for v, of_view in enumerate(prompts):
        for b, ids in enumerate(of_view):
            input_ids[b, v, : len(ids)] = ids
            attention_mask[b, v, : len(ids)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}
