"""Rows of a decoder-only student: each prompt with the prefix trees of its identifiers, many prompts to a row.

A packed row of an encoder-decoder (see `packing`) starts with the empty prefix, of which the decoder has read only its
start token. Here the last token of the prompt takes its place, and the tokens before it are a chain that leads to the
root of the tree: every prompt and every prefix is read once. A cell sees the cells before it in its row whose subtree
it belongs to, so prompts that share a row do not see each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from dgr_trainer.errors import DGRValueError

_LONGEST_ROW = 2048  # Attention grows with the square of a row, even where a mask hides it.
_WIDTHS_TRIED = 12


class CausalRows(NamedTuple):
    """R rows of N cells.

    Attributes:
        tokens (`torch.LongTensor` of shape `(R, N)`): Token of each cell, 0 for padding.
        positions (`torch.LongTensor` of shape `(R, N)`): Tokens before it on its path: of the prompt and the prefix.
        ends (`torch.LongTensor` of shape `(R, N)`): The index in its row after the last cell that sees it.
        cells (`torch.LongTensor` of shape `(B * R' * N',)`):
            For each cell of the flattened packed rows, the cell of the flattened rows whose state is that of this
            prefix. Of no meaning for padding.
        num_prefixes (`int`): Prefixes in the packed rows, of which each row has at least one.
    """

    tokens: Tensor
    positions: Tensor
    ends: Tensor
    cells: Tensor
    num_prefixes: int


class _Tree(NamedTuple):
    """A prompt with some packed rows: what is read once, and never divided."""

    prompt: int
    rows: list[int]
    size: int


def causal_rows(
    input_ids: Tensor,
    attention_mask: Tensor,
    packed: Mapping[str, Tensor],
    *,
    hidden_size: int,
    tokens_at_once: int | None = None,
) -> CausalRows:
    """Make the rows of a batch.

    Args:
        input_ids (`torch.LongTensor` of shape `(P, L)`): Prompts, padded on either side.
        attention_mask (`torch.LongTensor` of shape `(P, L)`): 1 where a prompt has a token.
        packed (`Mapping[str, torch.LongTensor]`): The arrays of [`PackedIdentifiers`], by name.
        hidden_size (`int`): Of the model; in a long row attention costs more beside everything else.
        tokens_at_once (`int`, *optional*): The longest row, unless one prompt with one packed row is longer.

    Returns:
        [`CausalRows`]: at least one row, on the device of the packed rows.
    """
    device = input_ids.device
    prefix_tokens, depths, ends = (packed[f"prefix_{name}"].flatten(0, 1) for name in ("tokens", "depths", "ends"))
    num_rows, width = prefix_tokens.shape
    # The only values that the host has to know. A row of padding looks like one with an empty prefix.
    lengths = attention_mask.sum(-1)
    on_host = torch.cat([ends[:, 0], packed["row_prompts"].flatten(), lengths]).cpu().numpy()
    sizes, row_prompts, prompt_lengths = np.split(on_host, [num_rows, 2 * num_rows])
    if not prompt_lengths[row_prompts].all():
        raise DGRValueError(
            "A prompt has no tokens, so a model without an encoder has nothing to predict the first token of an "
            "identifier from. Let the tokenizer begin prompts with its BOS, or do not let them be empty."
        )
    longest = _LONGEST_ROW if tokens_at_once is None else min(_LONGEST_ROW, tokens_at_once)
    trees = _trees(sizes - 1, row_prompts, prompt_lengths, longest)
    places, total, size = _place([tree.size for tree in trees], longest, hidden_size)

    # Where each prompt and each packed row goes: flat cells of the rows.
    tree_starts = np.array(places)
    tree_prompts = np.array([tree.prompt for tree in trees])
    firsts, roots = np.zeros(num_rows, np.int64), np.zeros(num_rows, np.int64)
    for tree, start in zip(trees, places, strict=True):
        cell = start + int(prompt_lengths[tree.prompt])
        for row in tree.rows:
            firsts[row], roots[row] = cell, start + int(prompt_lengths[tree.prompt]) - 1
            cell += int(sizes[row]) - 1
    tree_ends = tree_starts + np.array([tree.size for tree in trees])
    host = np.concatenate([tree_starts, tree_prompts, tree_ends, firsts, roots])
    starts, prompts, stops, first_cells, root_cells = torch.split(
        torch.from_numpy(host).to(device), [len(trees)] * 3 + [num_rows] * 2
    )

    nowhere = total * size  # An extra cell for what is padding.
    column = torch.arange(input_ids.shape[1], device=device)
    is_prompt = column < lengths[prompts, None]
    prompt_cells = torch.where(is_prompt, starts[:, None] + column, nowhere)
    index = torch.arange(width, device=device)
    cells = torch.where(index == 0, root_cells[:, None], first_cells[:, None] + index - 1)
    is_prefix = (index > 0) & (index < ends[:, :1])
    prefix_cells = torch.where(is_prefix, cells, nowhere)

    def laid_out(of_prompts: Tensor, of_prefixes: Tensor, fill: Tensor) -> Tensor:
        flat = torch.cat([fill, fill[:1]])
        flat = flat.scatter(0, prompt_cells.flatten(), of_prompts.expand_as(prompt_cells).flatten())
        return flat.scatter(0, prefix_cells.flatten(), of_prefixes.flatten())[:nowhere].view(total, size)

    zeros = torch.zeros(nowhere, dtype=torch.long, device=device)
    next_cell = torch.arange(1, nowhere + 1, device=device)
    row_starts = torch.arange(0, nowhere, size, device=device)[:, None]
    ordered = without_left_padding(input_ids, attention_mask)
    row_lengths = lengths[packed["row_prompts"].flatten()][:, None]
    flat_ends = laid_out(stops[:, None], first_cells[:, None] + ends - 1, next_cell)
    return CausalRows(
        tokens=laid_out(ordered[prompts], prefix_tokens, zeros),
        positions=laid_out(column, row_lengths - 1 + depths, zeros),
        ends=flat_ends - row_starts,
        cells=cells.flatten(),
        num_prefixes=int(sizes.sum()),
    )


def chains(labels: Tensor) -> dict[str, Tensor]:
    """Rows of `packing` that hold one identifier each, the labels of a pair: a prefix tree without branches.

    Args:
        labels (`torch.LongTensor` of shape `(B, T)`): Label tokens of B pairs, negative for padding, wherever it is.

    Returns:
        `dict[str, torch.LongTensor]`: the arrays of [`PackedIdentifiers`] that describe rows. Label t of pair b
        follows the prefix `b * T + t'` of the flattened rows, where t' is the number of labels before it.
    """
    present = labels >= 0
    lengths = present.sum(-1, keepdim=True)
    tokens = without_left_padding(labels, present).roll(1, dims=-1)
    tokens[:, 0] = -1
    depths = torch.arange(labels.shape[1], device=labels.device).expand_as(labels)
    return {
        "prefix_tokens": tokens.unsqueeze(1),
        "prefix_depths": depths.unsqueeze(1),
        "prefix_ends": torch.where(depths < lengths, lengths, depths + 1).unsqueeze(1),
        "row_prompts": torch.arange(len(labels), device=labels.device).unsqueeze(1),
    }


def without_left_padding(input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """The same prompts with the padding, wherever it was, after the tokens."""
    order = (attention_mask == 0).to(torch.int8).argsort(dim=-1, stable=True)
    return input_ids.gather(-1, order)


def _trees(added: np.ndarray, row_prompts: np.ndarray, prompt_lengths: np.ndarray, longest: int) -> list[_Tree]:
    """The packed rows of each prompt, divided only where they are too long for a row; `added` is what each adds."""
    trees: list[_Tree] = []
    for prompt in sorted(set(row_prompts.tolist())):
        size = int(prompt_lengths[prompt])
        rows: list[int] = []
        for row in np.flatnonzero(row_prompts == prompt).tolist():
            if rows and size + added[row] > longest:
                trees.append(_Tree(prompt, rows, size))
                size, rows = int(prompt_lengths[prompt]), []
            rows.append(row)
            size += int(added[row])
        trees.append(_Tree(prompt, rows, size))
    return trees


def _place(sizes: Sequence[int], longest: int, hidden_size: int) -> tuple[list[int], int, int]:
    """Put trees into rows of the cheapest length: the flat cell at which each starts, and the shape of the rows."""
    largest = max(sizes)
    most = max(largest, min(sum(sizes), longest))
    best: tuple[float, list[int], int, int] | None = None
    for width in sorted(set(np.geomspace(largest, most, _WIDTHS_TRIED).round().astype(int).tolist())):
        filled: list[int] = []
        spots = [(0, 0)] * len(sizes)
        # The largest first, each where it fits first.
        for tree in sorted(range(len(sizes)), key=lambda number: -sizes[number]):
            row = next((r for r, used in enumerate(filled) if used + sizes[tree] <= width), len(filled))
            if row == len(filled):
                filled.append(0)
            spots[tree] = row, filled[row]
            filled[row] += sizes[tree]
        width = max(filled)
        # A token costs 24 h^2 operations in the matrices of a layer, and 4 h for each cell that it may look at.
        cost = len(filled) * width * (1 + width / (6 * hidden_size))
        if best is None or cost < best[0]:
            best = cost, [row * width + column for row, column in spots], len(filled), width
    assert best is not None
    return best[1:]
