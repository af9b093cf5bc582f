"""Runs a decoder-only model step by step, for many hypotheses of many prompts.

`SharedPromptSteps` reads a prompt once and keeps its keys and values once, however many beams it has: the beams of a
prompt lie side by side in one row of the batch, and a mask lets each see the prompt and its own tokens. It needs a
model that takes such a mask. `CopiedPromptSteps` has a row for each beam, with a copy of the prompt's keys and
values, as `generate` has. `RereadingSteps` needs no cache: each step reads prompt and tokens again.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from dgr_trainer.errors import DGRValueError
from dgr_trainer.student.causal_masks import mask_obstacle, masks_by_layer_type
from dgr_trainer.student.forward_arguments import cache_argument, takes
from dgr_trainer.student.model_facts import model_device

# The cache is made smaller once more than half of its places are of abandoned hypotheses, and these are at least:
_ABANDONED = 64
_TOKENS_AT_ONCE = 4096  # that are read again in one call


class SharedPromptSteps:
    """Runs a model step by step; the beams of a prompt share its keys and values.

    A row of the batch holds a prompt and the tokens of all its hypotheses, in the order in which they were read.
    Nothing is moved when beams change places: each hypothesis knows which places of its row it sees.

    Args:
        model ([`~transformers.PreTrainedModel`]): A decoder-only model in generation mode.
        prompts (`list[list[int]]`): Token ids of the prompts. Each is a row that the first step extends.

    Attributes:
        scores (`torch.Tensor` of float32, shape `(prompts, vocabulary)`): Log-probabilities of the first token.
    """

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.model = model
        self.device = model_device(model)
        obstacle = mask_obstacle(model)
        if obstacle is not None:
            raise DGRValueError(obstacle)
        # Without a configuration, it also keeps what sliding layers do not see any more.
        self._cache: Any = DynamicCache()
        # Of each row of the previous step: its row in the batch, and its place among the beams of its prompt.
        self._rows = np.arange(len(prompts))
        self._slots = np.zeros(len(prompts), np.int64)
        self._depth = 0
        # What tells the host how many places each row of the batch uses, without asking the device: the lengths of the
        # prompts, and the slots, (batch, beams, depth), of the hypotheses that each beam goes back to.
        self._prompt_lengths = np.array([len(ids) for ids in prompts])
        self._paths = np.zeros((len(prompts), 1, 0), np.int64)
        ids, mask = left_padded(prompts, self.model)
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        logits = _forward(self.model, ids, mask, positions, self._cache, last_only=True)[0]
        if not all(type(layer) is DynamicLayer for layer in self._cache.layers):
            raise DGRValueError(f"{type(self.model).__name__} needs a cache of its own.")
        self._lengths = mask.sum(-1, keepdim=True)
        self._key_positions = positions
        # (batch, beams, places): what each hypothesis sees.
        self._visible = mask.bool()[:, None]
        self.scores = logits[:, -1].log_softmax(-1, dtype=torch.float32)

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row; see [`Steps`]."""
        kept, rows = np.unique(self._rows[parents], return_inverse=True)
        if len(kept) < len(self._visible):
            self._keep_rows(torch.from_numpy(kept).to(self.device))
            self._prompt_lengths, self._paths = self._prompt_lengths[kept], self._paths[kept]
        slots = _places(rows)
        shape = len(kept), int(slots.max()) + 1
        read, parent_slots, is_beam = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, bool)
        read[rows, slots], parent_slots[rows, slots], is_beam[rows, slots] = tokens, self._slots[parents], True
        self._rows, self._slots = rows, slots
        self._branch(parent_slots, is_beam)
        positions = (self._lengths + self._depth).expand(shape)
        self._key_positions = torch.cat([self._key_positions, positions], dim=1)
        self._depth += 1
        mask = masks_by_layer_type(self.model, self._visible, positions, self._key_positions)
        ids = torch.from_numpy(read).to(self.device)
        logits = _forward(self.model, ids, mask, positions, self._cache)[0]
        if is_beam.all() and (np.diff(rows) >= 0).all():
            return logits.flatten(0, 1).log_softmax(-1, dtype=torch.float32)
        places = torch.from_numpy(rows * shape[1] + slots).to(logits.device)
        return logits.flatten(0, 1)[places].log_softmax(-1, dtype=torch.float32)

    def _keep_rows(self, kept: Tensor) -> None:
        """Keep some rows of the batch: other prompts have no hypotheses any more."""
        for layer in self._cache.layers:  # Each may be on another device.
            layer.batch_select_indices(kept.to(layer.keys.device))
        self._visible, self._lengths, self._key_positions = (
            tensor[kept] for tensor in (self._visible, self._lengths, self._key_positions)
        )

    def _branch(self, parent_slots: np.ndarray, is_beam: np.ndarray) -> None:
        """Let each beam see what its parent saw, and a place of its own at the end; the rest of a row sees only that.

        Args:
            parent_slots (`np.ndarray` of int64, shape `(batch, beams)`): Place of each beam's parent.
            is_beam (`np.ndarray` of bool, same shape): Where there is a beam.
        """
        parents, beams = (torch.from_numpy(values).to(self.device)[..., None] for values in (parent_slots, is_beam))
        visible = self._visible.gather(1, parents.expand(-1, -1, self._visible.shape[2])) & beams
        most = self._most_used(parent_slots, is_beam)
        if visible.shape[2] - most > max(most, _ABANDONED):
            places = visible.any(1).byte().argsort(dim=-1, descending=True, stable=True)[:, :most]
            visible = visible.gather(2, places[:, None].expand(-1, visible.shape[1], -1))
            self._key_positions = self._key_positions.gather(1, places)
            for layer in self._cache.layers:
                layer.keys, layer.values = (_gathered(states, places) for states in (layer.keys, layer.values))
        own = torch.eye(visible.shape[1], dtype=torch.bool, device=self.device).expand(len(visible), -1, -1)
        self._visible = torch.cat([visible, own], dim=-1)

    def _most_used(self, parent_slots: np.ndarray, is_beam: np.ndarray) -> int:
        """The largest number of places of a row that its beams see; moves on to the beams. See `_branch`."""
        paths = np.take_along_axis(self._paths, parent_slots[..., None], axis=1)
        paths[~is_beam] = -1
        ordered = np.sort(paths, axis=1)
        first_of_slot = ordered >= 0
        first_of_slot[:, 1:] &= ordered[:, 1:] != ordered[:, :-1]
        own = np.broadcast_to(np.arange(paths.shape[1])[None, :, None], (*paths.shape[:2], 1))
        self._paths = np.concatenate([paths, own], axis=2)
        return int((self._prompt_lengths + first_of_slot.sum(axis=(1, 2))).max())


class CopiedPromptSteps:
    """Runs a model step by step; each beam has a row of its own in the model's cache, with a copy of its prompt's.

    Args:
        model ([`~transformers.PreTrainedModel`]): A decoder-only model in generation mode.
        prompts (`list[list[int]]`): Token ids of the prompts. Each is a row that the first step extends.

    Attributes:
        scores (`torch.Tensor` of float32, shape `(prompts, vocabulary)`): Log-probabilities of the first token.
    """

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.model = model
        self.device = model_device(model)
        ids, self._mask = left_padded(prompts, self.model)
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
        logits, self._cache = _forward(self.model, ids, self._mask, positions, None, last_only=True)
        self.scores = logits[:, -1].log_softmax(-1, dtype=torch.float32)

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row; see [`Steps`]."""
        if not np.array_equal(parents, np.arange(len(self._mask))):
            rows = torch.from_numpy(parents).to(self.device)
            self._cache.reorder_cache(rows)
            self._mask = self._mask[rows]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(parents), 1)], dim=1)
        positions = self._mask.sum(-1, keepdim=True) - 1
        ids = torch.from_numpy(tokens).to(self.device)[:, None]
        logits, self._cache = _forward(self.model, ids, self._mask, positions, self._cache)
        return logits[:, -1].log_softmax(-1, dtype=torch.float32)


class RereadingSteps:
    """Runs a model step by step without a cache: each step reads prompts and tokens again, rows of one length at once.

    Args:
        model ([`~transformers.PreTrainedModel`]): A decoder-only model in generation mode.
        prompts (`list[list[int]]`): Token ids of the prompts. Each is a row that the first step extends.

    Attributes:
        scores (`torch.Tensor` of float32, shape `(prompts, vocabulary)`): Log-probabilities of the first token.
    """

    def __init__(self, model: Any, prompts: list[list[int]]) -> None:
        self.model = model
        self._texts = [np.array(ids) for ids in prompts]
        self.scores = self._read()

    def _read(self) -> Tensor:
        lengths = np.array([len(text) for text in self._texts])
        parts, order = [], []
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            order.append(rows)
            for chunk in np.array_split(rows, -(-len(rows) * int(length) // _TOKENS_AT_ONCE)):
                ids = torch.from_numpy(np.stack([self._texts[row] for row in chunk])).to(model_device(self.model))
                arguments: dict[str, Any] = {"input_ids": ids, "use_cache": False, "return_dict": True}
                if takes(self.model, "attention_mask"):
                    arguments["attention_mask"] = torch.ones_like(ids)
                if takes(self.model, "logits_to_keep"):
                    arguments["logits_to_keep"] = 1
                parts.append(self.model(**arguments).logits[:, -1].log_softmax(-1, dtype=torch.float32))
        places = torch.from_numpy(np.argsort(np.concatenate(order), kind="stable")).to(parts[0].device)
        return torch.cat(parts)[places]

    def step(self, parents: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Read one token per row; see [`Steps`]."""
        self._texts = [np.append(self._texts[parent], token) for parent, token in zip(parents, tokens, strict=True)]
        return self._read()


def left_padded(prompts: list[list[int]], model: Any) -> tuple[Tensor, Tensor]:
    """Prompts padded on the left, and their mask, both `(prompts, length)`, int64."""
    width = max(map(len, prompts))
    pad = getattr(model.config.get_text_config(decoder=True), "pad_token_id", None) or 0
    ids = torch.tensor([[pad] * (width - len(ids)) + ids for ids in prompts], device=model_device(model))
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts], device=model_device(model))
    return ids, mask


def _forward(
    model: Any,
    ids: Tensor,
    mask: Tensor | dict[str, Tensor],
    positions: Tensor,
    cache: Any,
    *,
    last_only: bool = False,
) -> tuple[Tensor, Any]:
    """Logits and cache of one call of the model."""
    name = cache_argument(model)
    arguments: dict[str, Any] = {"input_ids": ids, "attention_mask": mask, "use_cache": True, "return_dict": True}
    if cache is not None:
        arguments[name] = cache
    if takes(model, "position_ids"):
        arguments["position_ids"] = positions
    if last_only and takes(model, "logits_to_keep"):
        arguments["logits_to_keep"] = 1
    outputs = model(**arguments)
    return outputs.logits, outputs[name]


def _gathered(states: Tensor, places: Tensor) -> Tensor:
    """Keys or values `(batch, heads, places, size)` at some of their places, `(batch, kept)`."""
    index = places.to(states.device)[:, None, :, None]
    return states.gather(2, index.expand(-1, states.shape[1], -1, states.shape[3]))


def _places(rows: np.ndarray) -> np.ndarray:
    """The place of each entry among those of the same value, in their order."""
    order = np.argsort(rows, kind="stable")
    places = np.empty(len(rows), np.int64)
    places[order] = np.arange(len(rows)) - np.searchsorted(rows[order], rows[order])
    return places
