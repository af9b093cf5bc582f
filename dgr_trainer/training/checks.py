"""Checks of arguments, data and model before training begins."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from typing import Any

import datasets
from torch import nn
from torch.utils.data import IterableDataset
from transformers import PreTrainedTokenizerBase

from dgr_trainer.data.ids import as_id
from dgr_trainer.data.query_text import as_query
from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.student.model_facts import (
    can_pack,
    decoder_position_limit,
    embedding_rows,
    packing_attention,
    start_token_id,
    underlying_model,
)
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.identifier_sources import CandidateIdentifiers, StringIdentifiers
from dgr_trainer.training.objective import RankingObjective

logger = logging.getLogger(__name__)


def check_trainer_arguments(
    args: Any,
    compute_loss_func: Callable[..., Any] | None,
    compute_metrics: Callable[..., Any] | None,
    preprocess_logits_for_metrics: Callable[..., Any] | None,
) -> None:
    """Refuse arguments of the parent class that would have no effect or a wrong one.

    Raises:
        TypeError: if `args` are not [`DistillationTrainingArguments`].
        ValueError: on `compute_loss_func`, `compute_metrics`, `fp16` on a CPU, or several GPUs in one process.
    """
    if not isinstance(args, DistillationTrainingArguments):
        raise DGRTypeError(
            f"args are {type(args).__name__}, which lack the settings of distillation. Use "
            "DistillationTrainingArguments, which take the same arguments and more."
        )
    if compute_metrics is not None or preprocess_logits_for_metrics is not None:
        raise DGRValueError(
            "compute_metrics sees the logits of teacher-forced identifiers, which say nothing about retrieval, so the "
            "trainer does not keep them. Pass retrieval_evaluator=RetrievalEvaluator(...) instead."
        )
    if compute_loss_func is not None:
        raise DGRValueError(
            "compute_loss_func would replace the whole distillation loss. For a ranking loss of your own, pass "
            "ranking_loss=RankingLoss(your_function) (dgr_trainer.training.losses) to the trainer or its arguments."
        )
    if args.fp16 and args.device.type == "cpu":
        raise DGRValueError(
            "fp16=True changes nothing on a CPU: accelerate would silently train in float32. Use bf16=True for "
            "half precision on a CPU, or leave fp16 out."
        )
    if args.n_gpu > 1:
        raise DGRValueError(
            f"{args.n_gpu} GPUs are visible to this process, and torch.nn.DataParallel splits batches in a way "
            "that breaks packed identifiers. Start one process per GPU (`torchrun --nproc_per_node "
            f"{args.n_gpu} script.py` or `accelerate launch`), or set CUDA_VISIBLE_DEVICES=0."
        )


def check_columns(name: str, dataset: Any, collator: Any) -> None:
    """Refuse a dataset whose columns do not match the collator.

    Raises:
        ValueError: if its columns are neither those of queries nor of pairs, or are queries without a
            [`DistillationCollator`].
    """
    columns = getattr(dataset, "column_names", None)
    if not columns:
        return
    queries, pairs = {"query_id", "query"} <= set(columns), {"input_ids", "labels"} <= set(columns)
    if isinstance(collator, DistillationCollator):
        if not queries and not pairs:
            raise DGRValueError(
                f"{name} has the columns {sorted(columns)}. Training on rank lists needs 'query_id' and 'query' "
                "(dataset.rename_column), training on pairs 'input_ids' and 'labels'."
            )
    elif queries and not pairs:
        given = "there is no data_collator" if collator is None else f"data_collator is a {type(collator).__name__}"
        raise DGRValueError(
            f"{name} holds queries, but {given}, which does not know their rank lists. Pass "
            "data_collator=DistillationCollator(tokenizer, identifiers, rankings)."
        )


def check_queries(name: str, dataset: Any) -> None:
    """Refuse a dataset in which a query is missing, blank or no string; streams are checked as they are read.

    Raises:
        TypeError: if a query or its id has the wrong type; names the row and the id.
        ValueError: if a query is blank, or an id is invalid.
    """
    for row, (query_id, query) in enumerate(_queries(dataset)):
        location = f"row {row} of {name}"
        as_query(query, as_id(query_id, "query", location), location)


def _queries(dataset: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(dataset, datasets.Dataset):
        if {"query_id", "query"} <= set(dataset.column_names):
            for batch in dataset.select_columns(["query_id", "query"]).with_format(None).iter(batch_size=10_000):
                yield from zip(batch["query_id"], batch["query"], strict=True)
    elif isinstance(dataset, Sized) and hasattr(dataset, "__getitem__") and not isinstance(dataset, IterableDataset):
        rows: Any = dataset
        for number in range(len(rows)):
            row = rows[number]
            if not isinstance(row, Mapping) or "query_id" not in row:
                return
            yield row["query_id"], row.get("query")


def check_model(model: nn.Module, collator: DistillationCollator) -> None:
    """Refuse a model that cannot be trained with a collator's batches.

    Raises:
        ValueError: if it is no sequence-to-sequence model, learns a prompt, has fewer embeddings than the tokenizer
            has tokens or fewer positions than an identifier, has no start token, or an attention without masks.
    """
    base: Any = underlying_model(model)
    if not getattr(base.config, "is_encoder_decoder", False):
        raise DGRValueError(
            f"{type(base).__name__} is no sequence-to-sequence model, but queries are read by an encoder and "
            "identifiers generated by a decoder. Use a model such as BART or T5 (AutoModelForSeq2SeqLM)."
        )
    adapters = getattr(model, "peft_config", None)
    if isinstance(adapters, dict) and any(
        getattr(config, "is_prompt_learning", False) for config in adapters.values()
    ):
        raise DGRValueError(
            "Prompt and prefix tuning put tokens in front of the decoder's input, which shifts packed identifiers. "
            "Use an adapter that does not change the input, such as LoRA."
        )
    rows = embedding_rows(model)
    if len(collator.tokenizer) > rows:
        raise DGRValueError(
            f"The tokenizer has {len(collator.tokenizer)} tokens, but the model only {rows} embeddings. Is it the "
            "model's tokenizer? If tokens were added, call model.resize_token_embeddings(len(tokenizer))."
        )
    _warn_of_untrained_tokens(model, collator.tokenizer)
    start_token_id(model)
    if can_pack(model):
        packing_attention(model)
    limit = decoder_position_limit(model)
    if limit is None:
        return
    if isinstance(collator.source, StringIdentifiers) and collator.source.longest > limit:
        raise DGRValueError(
            f"The longest identifier has {collator.source.longest} tokens, but the decoder has {limit} positions. "
            "Shorten the identifiers."
        )


def warn_of_margins(collator: DistillationCollator, objective: RankingObjective, query_ids: Iterable[str]) -> None:
    """Warn if the margins are larger than the range of the scores that they should separate.

    The scores of candidates are close to those of passages in training. Their scale grows with the corpus, and the
    published margins suit a corpus of millions of passages. The suggested margins keep the published proportions; the
    margin is half of the distance between the best and the median candidate.

    Args:
        collator ([`DistillationCollator`]): The collator; without candidates, no scores are known.
        objective ([`RankingObjective`]): The loss and its margins.
        query_ids (`Iterable[str]`): The training queries.
    """
    source = collator.source
    if not (
        objective.has_margins and isinstance(source, CandidateIdentifiers) and collator.scoring.kind == "log_odds"
    ):
        return
    spread = source.spread(query_ids)
    margin = objective.settings["margin"]
    if not 0 < spread < margin:
        return
    suggested = _rounded(spread / 2)
    logger.warning(
        "margin=%g is larger than %g, by which the student scores its best candidate above its median one (the median "
        "over the first queries), so most pairs violate it, whatever their order. On this corpus try "
        "margin=%g, margin_gap=%g, generation_weight=%g.",
        margin,
        _rounded(spread, 3),
        suggested,
        _rounded(suggested / 3),
        _rounded(objective.generation_weight * suggested / margin),
    )


def _rounded(value: float, digits: int = 2) -> float:
    return float(f"{value:.{digits}g}")


def _warn_of_untrained_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if an adapter leaves the embeddings of added tokens untrained."""
    embeddings = underlying_model(model).get_input_embeddings()
    if not hasattr(model, "peft_config") or any(parameter.requires_grad for parameter in embeddings.parameters()):
        return
    added = [
        token.content
        for number, token in sorted(tokenizer.added_tokens_decoder.items())
        if number >= tokenizer.vocab_size and not token.special
    ]
    if added:
        logger.warning(
            "%d tokens were added to the tokenizer, such as %r, and the adapter does not train their embeddings. "
            "Unless they were trained before, give the LoraConfig trainable_token_indices (their ids) or "
            "modules_to_save (the embeddings), and ensure_weight_tying=True where they are the output's, too.",
            len(added),
            added[0],
        )
