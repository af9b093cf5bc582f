"""Checks of arguments, data and model before training begins."""

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from transformers import PreTrainedTokenizerBase

from dgr_trainer.errors import DGRTypeError, DGRValueError
from dgr_trainer.semantic_ids.tokens import added_tokens
from dgr_trainer.student.embedding_probe import trained_rows
from dgr_trainer.student.model_facts import (
    embedding_rows,
    innermost_module,
    underlying_model,
)
from dgr_trainer.student.prompt_check import check_prompts
from dgr_trainer.student.sharding import is_sharded
from dgr_trainer.student.students import student_of
from dgr_trainer.training.arguments import DistillationTrainingArguments
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.identifier_sources import CandidateIdentifiers, StringIdentifiers
from dgr_trainer.training.objective import RankingObjective
from dgr_trainer.training.student_check import try_student

logger = logging.getLogger(__name__)

_PAIRS_LOOKED_AT = 16
_PAIRS_AT_ONCE = 100_000


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


def check_model(model: nn.Module, collator: DistillationCollator) -> None:
    """Refuse a model that cannot be trained with a collator's batches.

    Raises:
        ValueError: if it generates no text, learns a prompt, has fewer embeddings than the tokenizer
            has tokens or fewer positions than an identifier, has no start token, or an attention without masks.
    """
    student = student_of(model)  # Raises an error if the model generates no text.
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
    _ = student.start_token_id  # Raises an error if there should be one.
    check_prompts(model, collator.identifiers)
    try_student(model, pairs=False)
    _warn_of_untrained_tokens(model, collator.tokenizer)
    limit = student.identifier_limit(collator.identifiers.settings.max_query_length)
    if limit is None:
        return
    if isinstance(collator.source, StringIdentifiers) and collator.source.longest > limit:
        prompt = collator.identifiers.settings.max_query_length
        after = "" if student.identifier_limit(0) == limit else f" after a prompt of max_query_length={prompt} tokens"
        raise DGRValueError(
            f"The longest identifier has {collator.source.longest} tokens, but the decoder has {limit} positions"
            f"{after}. Shorten the identifiers."
        )


def check_pairs(model: nn.Module, name: str, dataset: Any) -> None:
    """Refuse pairs whose labels the model would read before it has to predict them, or that it has no positions for.

    Raises:
        ValueError: if the labels of the first pairs are among their `input_ids`, as other trainers of causal language
            models want them, or a pair is longer than the model's positions.
    """
    if not {"input_ids", "labels"} <= set(getattr(dataset, "column_names", None) or ()):
        return
    student = student_of(model)
    rows = dataset.with_format(None).take(_PAIRS_LOOKED_AT)
    if student.pairs_are_joined([(row["input_ids"], row["labels"]) for row in rows]):
        raise DGRValueError(
            f"The labels of {name} are also in its input_ids, as SFTTrainer and the loss of causal language models "
            "want them. Here input_ids are the prompt alone, and labels the tokens that follow it, without -100 in "
            "their place: see docs/from-sft-trainer.md."
        )
    limit = student.identifier_limit(0)
    if limit is not None and isinstance(dataset, Dataset):
        _check_pair_lengths(name, dataset, limit, joined=student.identifier_limit(1) != limit)


def _check_pair_lengths(name: str, dataset: Dataset, limit: int, *, joined: bool) -> None:
    """Refuse pairs that are longer than a model's positions; `joined` if the prompt stands before the identifier."""
    counted = ["input_ids", "labels"] if joined else ["labels"]
    read = dataset.select_columns(counted).with_format("arrow")
    first, longest, too_long = None, 0, 0
    for start in range(0, len(dataset), _PAIRS_AT_ONCE):
        table = read[start : start + _PAIRS_AT_ONCE]
        lengths = sum(pc.fill_null(pc.list_value_length(table.column(column)), 0).to_numpy() for column in counted)
        if first is None and lengths.max() > limit:
            first = start + int(lengths.argmax())
        longest, too_long = max(longest, int(lengths.max())), too_long + int((lengths > limit).sum())
    if first is not None:
        parts = " and ".join(counted)
        raise DGRValueError(
            f"{too_long} of {len(dataset)} pairs of {name}, such as row {first}, have {parts} of up to {longest} "
            f"tokens, but at most {limit} fit the positions of the model. Make shorter ones "
            "(generation_pairs(substring_length=...)) or leave them out with dataset.filter(...)."
        )


def check_prefix_ranking(collator: DistillationCollator) -> None:
    """Refuse passages of several identifiers, which have no prefix of their own at a depth.

    Raises:
        ValueError: if a passage may have several identifiers.
    """
    if collator.one_identifier_a_passage:
        return
    raise DGRValueError(
        f"prefix_ranking=True ranks the prefixes of one identifier a passage, but the candidates score a passage by "
        f"several (kind={collator.scoring.kind!r}, views {', '.join(collator.identifiers.views)}). Give the collator "
        "one string for each passage (semantic ids, docids or titles), or leave prefix_ranking out."
    )


def check_coverage(
    collator: DistillationCollator,
    objective: RankingObjective,
    query_ids: Sequence[str],
    *,
    progress: bool = False,
    tell: bool = True,
) -> None:
    """Refuse queries of which nothing can be distilled; warn of what they lack, and of margins beyond their scores.

    Args:
        collator ([`DistillationCollator`]): The collator.
        objective ([`RankingObjective`]): The loss and its margins.
        query_ids (`Sequence[str]`): The training queries.
        progress (`bool`, defaults to `False`): Whether to show a progress bar.
        tell (`bool`, defaults to `True`): Whether this process warns.

    Raises:
        ValueError: if no query has two passages that the teacher tells apart, and the ranking is trained; or if the
            collator has a `tie_margin` that the loss does not know.
    """
    tie_margin = collator.sampler.tie_margin
    if objective.ranking_weight > 0 and tie_margin > 0 and not objective.loss.knows_ties():
        raise DGRValueError(
            f"tie_margin={tie_margin:g} has no effect with ranking_loss={objective.loss.name!r}, which is taught the "
            "teacher's scores as they are, and not places that passages can share. Leave tie_margin out of the "
            "collator, or use distilled_ranknet or margin_rank."
        )
    coverage = collator.coverage(query_ids, progress=progress)
    gaps = "; ".join(coverage.gaps())
    if objective.ranking_weight > 0 and not coverage.rank_lists:
        raise DGRValueError(
            f"None of the {coverage.queries} training queries has two ranked passages with identifiers, so there is "
            f"nothing to distil, or their scores are equal: {gaps}. Were the rankings made for these queries?"
        )
    if tell and gaps:
        logger.warning("Training queries are incomplete: %s. They are trained on what they have.", gaps)
    if tell:
        warn_of_margins(collator, objective, query_ids)


def check_evaluation_coverage(
    collator: DistillationCollator,
    objective: RankingObjective,
    name: str,
    query_ids: Sequence[str],
    *,
    only_loss: bool,
    tell: bool = True,
) -> None:
    """Refuse, or warn of, queries whose loss would be 0 because the collator knows nothing of them.

    Args:
        collator ([`DistillationCollator`]): The collator.
        objective ([`RankingObjective`]): The loss and its weights.
        name (`str`): How messages name the dataset.
        query_ids (`Sequence[str]`): Its queries.
        only_loss (`bool`): Whether the loss is all that is evaluated: then queries that have none are refused.
        tell (`bool`, defaults to `True`): Whether this process warns.

    Raises:
        ValueError: if no query has a rank list or a passage to generate that counts, and `only_loss`.
    """
    coverage = collator.coverage(query_ids)
    ranked = coverage.queries - coverage.without_rank_list if objective.ranking_weight > 0 else 0
    generated = coverage.queries - coverage.without_target if objective.generation_weight > 0 else 0
    if ranked or generated:
        lacking = coverage.without_rank_list if objective.ranking_weight > 0 else coverage.without_target
        if tell and lacking:
            logger.warning(
                "Queries of %s are incomplete: %s. What they lack counts as 0 in its loss.",
                name,
                "; ".join(coverage.gaps()),
            )
        return
    message = (
        f"None of the {coverage.queries} queries of {name} has a rank list or a passage to generate, so its loss "
        "would be 0 whatever the student does. Give the collator the rankings (and candidates) of these queries, too"
    )
    if only_loss:
        raise DGRValueError(f"{message}, or evaluate retrieval instead (retrieval_evaluator).")
    if tell:
        logger.warning("%s, or leave the dataset out: the retrieval metrics need none.", message)


def warn_of_margins(collator: DistillationCollator, objective: RankingObjective, query_ids: Iterable[str]) -> None:
    """Warn if the margins are larger than the range of the scores that they should separate.

    The scores of candidates are close to those of passages in training. Their scale grows with the corpus, and the
    published margins suit a corpus of millions of passages. Margins that are left out fit the scores, those that are
    given need not.

    Args:
        collator ([`DistillationCollator`]): The collator; without candidates, no scores are known.
        objective ([`RankingObjective`]): The loss and its margins.
        query_ids (`Iterable[str]`): The training queries.
    """
    source = collator.source
    if not (
        objective.has_margins
        and isinstance(source, CandidateIdentifiers)
        and collator.scoring.kind == "log_odds"
        and objective.settings.get("normalization", "none") == "none"
    ):
        return
    spread = source.spread(query_ids)
    margin = objective.settings["margin"]
    if not 0 < spread < margin:
        return
    logger.warning(
        "margin=%g is larger than %g, by which the student scores its best candidate above its median one (the median "
        "over the first queries), so most pairs violate it, whatever their order. Left out, the settings fit this "
        "corpus: margin=%g, margin_gap=%g, generation_weight=%g.",
        margin,
        _rounded(spread, 3),
        _rounded(spread / 2),
        _rounded(spread / 6),
        _rounded(objective.loss.generation_weight("log_odds", spread)),
    )


def _rounded(value: float, digits: int = 2) -> float:
    return float(f"{value:.{digits}g}")


def _warn_of_untrained_tokens(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> None:
    """Warn if training leaves embeddings or output rows of added tokens as they are; refuse if it changes nothing.

    Raises:
        ValueError: if no trainable weight takes part in the forward pass.
    """
    parameters = list(model.parameters())
    if all(parameter.requires_grad for parameter in parameters):
        return
    if is_sharded(model) or any(parameter.is_meta for parameter in parameters):
        return  # Not in memory, so the probe cannot run.
    added = added_tokens(tokenizer)
    rows = trained_rows(model, list(added) or [0])
    if not rows.anything:
        raise DGRValueError(
            "No trainable weight of the model takes part in its forward pass, so training would change nothing. "
            "Unfreeze weights, or let the adapter target modules that the model runs: in BART and T5, encoder and "
            "decoder read their own embed_tokens and never call shared."
        )
    if not added:
        return
    read = {"the embeddings": rows.decoder}
    if rows.encoder is not None:
        read = {"the encoder's embeddings": rows.encoder, "the decoder's embeddings": rows.decoder}
    left = {name: ~trained for name, trained in {**read, "the output projection": rows.output}.items()}
    left = {name: untrained for name, untrained in left.items() if untrained.any()}
    if not left:
        return
    untrained = torch.stack(list(left.values())).any(0)
    base: Any = underlying_model(model)
    tied = (
        innermost_module(base.get_output_embeddings()).weight is innermost_module(base.get_input_embeddings()).weight
    )
    example = list(added.values())[int(untrained.nonzero()[0])]
    if list(left) == ["the output projection"]:
        told = f"New tokens, such as {example!r}, are read with trained embeddings, but"
    else:
        told = f"{len(added)} tokens were added to the tokenizer, such as {example!r}, and"
    logger.warning(
        "%s training leaves the rows of %d of them in %s as they are. Unless they were trained before, give the "
        "LoraConfig trainable_token_indices%s with their ids, or unfreeze these weights.",
        told,
        int(untrained.sum()),
        " and ".join(left),
        "=[...]" if tied else '={"embed_tokens": [...], "lm_head": [...]}',
    )
