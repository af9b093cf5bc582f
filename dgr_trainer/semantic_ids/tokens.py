"""The tokens of codes: in docids, in a tokenizer, and in a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.student.model_facts import embedding_rows, innermost_module, underlying_model
from dgr_trainer.student.sharding import is_sharded

_DOCIDS_TRIED = 1000


def add_tokens(
    tokens: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel | None,
    pad_to_multiple_of: int | None = None,
) -> list[int]:
    """Add tokens to a tokenizer, and rows for them to a model.

    See `SemanticIds.add_to`.
    """
    known, vocabulary = len(tokenizer), tokenizer.get_vocab()
    missing = sum(token not in vocabulary for token in tokens)
    if model is not None and not missing and pad_to_multiple_of is None and embedding_rows(model) >= known:
        model = None  # It has the rows, and may have adapters that train them.
    if model is not None:
        _check_model(model, missing)
    new = [AddedToken(token, normalized=False, special=False) for token in tokens if token not in vocabulary]
    tokenizer.add_tokens(new)
    vocabulary = tokenizer.get_vocab()
    ids = [vocabulary[token] for token in tokens]
    if model is not None:
        added = {vocabulary[token.content] for token in new}
        _add_rows(model, len(tokenizer), known, ids, added, pad_to_multiple_of)
    return ids


def _check_model(model: Any, missing: int) -> None:
    if getattr(model, "peft_config", None):
        raise DGRValueError(
            f"The model is a {type(model).__name__} with adapters already, whose layers would not follow when "
            f"embeddings are added. Add the tokens ({missing} are missing in the tokenizer) to the base model, and "
            "give it adapters afterwards."
        )
    if not isinstance(model, PreTrainedModel):
        raise DGRTypeError(f"model is a {type(model).__name__}, but tokens can be added to a PreTrainedModel only.")
    if is_sharded(model) or any(parameter.is_meta for parameter in model.parameters()):
        raise DGRValueError(
            "The weights of the model are not in the memory of this process (they are sharded or offloaded), so its "
            "embeddings cannot be extended. Add the tokens before the model is distributed."
        )


def _add_rows(
    model: Any, tokens: int, known: int, ids: Sequence[int], added: set[int], pad_to_multiple_of: int | None
) -> None:
    """Give tokens rows in the embeddings and in the output projection: the mean of the rows before them.

    A model may have more rows than its tokenizer has tokens (T5: 32,128 for 32,100); these are used first, and no row
    is ever taken away.
    """
    rows = embedding_rows(model)
    own = set(ids)
    before = [row for row in range(min(known, rows)) if row not in own]
    replaced: list[nn.Embedding] = []
    if tokens > rows or pad_to_multiple_of is not None:
        replaced = _resized(model, max(tokens, rows), pad_to_multiple_of)
    after = embedding_rows(model)
    fresh = sorted({token for token in ids if token in added or token >= rows} | set(range(rows, after)))
    if not fresh:
        return
    outputs = model.get_output_embeddings()
    weights = [model.get_input_embeddings().weight, *(embedding.weight for embedding in replaced)]
    if outputs is not None:
        weights += [outputs.weight, getattr(outputs, "bias", None)]
    weights.append(getattr(model, "final_logits_bias", None))  # BART's
    done: set[int] = set()
    for weight in weights:
        if weight is not None and id(weight) not in done:
            done.add(id(weight))
            _set_to_mean(weight, before, fresh)


def _resized(model: Any, rows: int, pad_to_multiple_of: int | None) -> list[nn.Embedding]:
    """Extend the embeddings and the output projection, and keep the modules; returns those of encoder and decoder.

    transformers puts the new embedding of BART and T5 in the place of those of encoder and decoder. These may scale
    what they look up, or have weights of their own, and peft finds only modules that are not the same one.
    """
    old = model.get_input_embeddings()
    tables = {
        (parent, name): child
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Embedding) and child is not old and child.weight.shape == old.weight.shape
    }
    tied = {table: table.weight is old.weight for table in tables.values()}
    # The new rows are set later: transformers would draw them at random from a distribution of all rows.
    model.resize_token_embeddings(rows, pad_to_multiple_of=pad_to_multiple_of, mean_resizing=False)
    new = model.get_input_embeddings()
    replaced = []
    for (parent, name), table in tables.items():
        if getattr(parent, name) is not new:
            continue
        if tied[table]:
            table.weight = new.weight
        else:
            extended = table.weight.data.new_empty(new.weight.shape)
            extended[: len(table.weight)] = table.weight.data
            table.weight = nn.Parameter(extended, requires_grad=table.weight.requires_grad)
        table.num_embeddings = len(table.weight)
        setattr(parent, name, table)
        replaced.append(table)
    return replaced


def _set_to_mean(weight: Tensor, before: Sequence[int], fresh: Sequence[int]) -> None:
    rows = weight.data[0] if weight.dim() == 2 and weight.shape[0] == 1 else weight.data
    total = rows[: before[-1] + 1][torch.tensor(before, device=rows.device)]
    rows[torch.tensor(fresh, device=rows.device)] = total.double().mean(0).to(rows.dtype)


def check_tokens(tokens: Sequence[str], docids: Sequence[Sequence[str]], tokenizer: PreTrainedTokenizerBase) -> None:
    """Check that a tokenizer makes one token of each code, alone and in docids.

    Args:
        tokens (`Sequence[str]`): All tokens.
        docids (`Sequence[Sequence[str]]`): The tokens of docids; the first 1,000 are tried.
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer.

    Raises:
        ValueError: if it makes something else of one of them; says what.
    """
    vocabulary = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in vocabulary]
    tried = list(docids[:_DOCIDS_TRIED])
    texts = ["".join(docid) for docid in tried]
    if missing:
        (pieces,) = _ids(tokenizer, missing[:1])
        raise DGRValueError(
            f"The tokenizer lacks {len(missing)} of {len(tokens)} tokens of the semantic ids: it splits "
            f"{missing[0]!r} into {len(pieces)} tokens, {tokenizer.convert_ids_to_tokens(pieces)}. Call "
            "add_to(tokenizer, model) of the semantic ids before anything else uses the two (again, if passages with "
            "atomic ids were added)."
        )
    for docid, text, ids in zip(tried, texts, _ids(tokenizer, texts), strict=True):
        if ids != [vocabulary[token] for token in docid]:
            raise DGRValueError(
                f"The tokenizer turns the docid {text!r} into {tokenizer.convert_ids_to_tokens(ids)}, but it should "
                f"be one token for each of its {len(docid)} codes. Was a token that overlaps with them added to it? "
                "Give the semantic ids another name: SemanticIds.fit(..., name=...)."
            )


def _ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    if not texts:
        return []
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False, truncation=False, padding=False)["input_ids"]
    return ids


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """The tokens that were added to a tokenizer beyond its vocabulary, by their ids, without special ones."""
    return {
        number: token.content
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if number >= tokenizer.vocab_size and not token.special
    }


def trainable_token_indices(model: nn.Module, ids: Sequence[int]) -> dict[str, list[int]]:
    """What `peft.LoraConfig(trainable_token_indices=...)` needs so that the rows of some tokens train.

    Args:
        model (`nn.Module`): The base model, before it gets adapters.
        ids (`Sequence[int]`): Ids of the tokens.

    Returns:
        `dict[str, list[int]]`: the ids by name of the embeddings, and of the output projection if it has weights of
        its own.
    """
    base = underlying_model(model)
    inputs, outputs = base.get_input_embeddings(), base.get_output_embeddings()
    weight = innermost_module(inputs).weight
    names = [name.rpartition(".")[2] for name, module in base.named_modules() if isinstance(module, nn.Embedding)]
    own = next(name.rpartition(".")[2] for name, module in base.named_modules() if module is inputs)
    if outputs is None or innermost_module(outputs).weight is weight:
        layers = [own]  # peft follows ties from here, to encoder, decoder and output projection.
    else:
        # Encoder and decoder of BART and T5 read embed_tokens of their own; none calls `shared`.
        projection = next(name.rpartition(".")[2] for name, module in base.named_modules() if module is outputs)
        layers = ["embed_tokens" if "embed_tokens" in names else own, projection]
    return {layer: list(ids) for layer in layers}
