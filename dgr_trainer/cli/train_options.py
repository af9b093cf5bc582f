"""Options of `dgr train`, other than those of `DistillationTrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from dgr_trainer.cli.derive import LibraryOptions, Setting, derived, parameters_of, settings_of
from dgr_trainer.cli.settings import AS_SAVED
from dgr_trainer.cli.sources import PART_HELP
from dgr_trainer.evaluation.evaluator import RetrievalEvaluator
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.training.collator import DistillationCollator
from dgr_trainer.training.sampling import SAMPLINGS

# What one stage only reads; it is refused in the other stage.
ONLY_GENERATION = ("pairs", "corpus")
ONLY_DISTILLATION = ("candidates", "run", "identifiers", "teacher_order")


@dataclass
class TrainOptions:
    """What is trained, and on what."""

    _argument_group_name = "stage and data"

    stage: Literal["generation", "distillation"] = field(
        metadata={"help": "Learn to generate identifiers, or to rank as the teacher does."}
    )
    model: str = field(
        metadata={
            "metavar": "MODEL",
            "help": "The student, such as BART or T5: a folder (also of a retriever), or a name on the hub.",
        }
    )
    index: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "Folder of `dgr index`. With it, or when the model is a retriever, the result is a retriever.",
        },
    )
    queries: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "Training queries: JSON Lines, TSV, a BEIR folder, or hf:NAME."},
    )
    qrels: str | None = field(
        default=None, metadata={"metavar": "PATH", "help": "Their qrels: TREC, BEIR's TSV, a BEIR folder, or hf:NAME."}
    )
    split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Split of a BEIR folder, such as train."}
    )
    part: str | None = field(default=None, metadata={"metavar": "N/M", "help": PART_HELP})
    pairs: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "generation: pairs that `dgr pairs` made; otherwise they are made now."},
    )
    corpus: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "generation: corpus to make pairs from; by default the one in the index's folder.",
        },
    )
    candidates: str | None = field(
        default=None,
        metadata={"metavar": "DIR", "help": "distillation: candidates of `dgr candidates`, with their identifiers."},
    )
    identifiers: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "distillation: one string per passage instead of candidates: JSON Lines (id, identifier) or TSV.",
        },
    )
    run: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "distillation: the teacher's run, of `dgr rank` (TREC, or .jsonl)."},
    )
    teacher_order: bool = field(
        default=False,
        metadata={"help": "distillation: teach the teacher's order alone; do not put the relevant passage first."},
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Start again and delete the checkpoints of an earlier run."}
    )


@derived(
    parameters_of(
        DistillationCollator,
        {
            "list_length": "Most passages in a query's list.",
            "sampling": "Where the teacher ranked more: take its first passages (top), draw as published or from all "
            "parts of its rank list (dgr_paper, spread), or take passages whose scores are far apart (gap), the "
            "student's first ones (hard), or those around the relevant one in the teacher's list (near).",
            "tie_margin": "Passages whose teacher scores differ by at most this are not told apart, by losses of the "
            "order such as distilled_ranknet.",
            "false_negative_margin": "Leave out unjudged passages that the teacher scores above the relevant one by "
            "more than this; by default none.",
            "max_row_tokens": "Longest packed row of the decoder.",
            "ignore_identical_ids": "Leave the passage that has the id of the query out of its list.",
        },
        choices={"sampling": SAMPLINGS},
    )
)
class CollatorOptions(LibraryOptions):
    """Options of `DistillationCollator`."""

    _argument_group_name = "rank lists (distillation)"


@dataclass
class LoraOptions:
    """A LoRA adapter, trained instead of the whole model."""

    _argument_group_name = "LoRA"

    lora_r: int = field(default=0, metadata={"help": "Rank of a LoRA adapter; 0 trains the whole model."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scale of the adapter; by default twice its rank."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout of the adapter."})
    lora_target_modules: list[str] | None = field(
        default=None,
        metadata={"help": "Modules that get an adapter, such as q_proj v_proj; by default peft's for the model."},
    )
    lora_added_tokens: bool = field(
        default=False,
        metadata={"help": "Also train the embeddings of added tokens, such as semantic ids."},
    )


@derived(settings_of(ScoringSettings, prefix="scoring_", leave_out=("kind",)), stated=AS_SAVED)
class ScoringOptions(LibraryOptions):
    """Options of `ScoringSettings`; those that are not given are as saved with the retriever that is trained."""

    _argument_group_name = "scoring of passages (saved with the retriever)"


def _evaluation_settings() -> list[Setting]:
    search = {setting.argument: setting for setting in settings_of(SearchSettings, prefix="eval_")}
    evaluator = parameters_of(
        RetrievalEvaluator,
        {
            "metrics": "Metrics, as in `dgr evaluate`.",
            "k": "Passages to search for per query.",
            "max_queries": "Evaluate on a random sample of this many queries; by default on all.",
            "ignore_identical_ids": "Leave out the passage that has the id of the query, as BEIR does.",
            "leave_out_own_text": "Leave out pseudo-queries that are the query, to evaluate on training queries.",
        },
        prefix="eval_",
    )
    beam_size = search["beam_size"]._replace(default=None, help="Beams of each view; by default the retriever's.")
    return [*evaluator, beam_size]


@derived(_evaluation_settings())
class EvaluationOptions(LibraryOptions):
    """Retrieval while training: metrics such as `eval_hits@10`, for `--eval_strategy` and the best model."""

    _argument_group_name = "retrieval at evaluation"

    eval_queries: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "Queries to evaluate retrieval on (--eval_strategy, and at the end)."},
    )
    eval_qrels: str | None = field(default=None, metadata={"metavar": "PATH", "help": "Their qrels."})
    eval_split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Their split in a BEIR folder, such as dev."}
    )
