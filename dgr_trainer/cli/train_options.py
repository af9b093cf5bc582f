"""Options of `dgr train`, beside those of `DistillationTrainingArguments`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

# What each stage reads; an option of the other stage is refused.
OF_GENERATION = ("pairs",)
OF_COLLATOR = ("list_length", "sampling", "false_negative_margin", "max_row_tokens")
OF_DISTILLATION = ("candidates", "run", "identifiers", "teacher_order", *OF_COLLATOR)


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
            "help": "The student: a folder (of a retriever, too), or a name on the hub. BART, T5, or alike.",
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
    pairs: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "generation: pairs that `dgr pairs` made; otherwise they are made now."},
    )
    corpus: str | None = field(
        default=None,
        metadata={
            "metavar": "PATH",
            "help": "generation: corpus to make pairs of. (default: the one beside the index)",
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
            "help": "distillation: in their place, one string a passage: JSON Lines (id, identifier) or TSV.",
        },
    )
    run: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "distillation: the teacher's run, of `dgr rank` (TREC, or .jsonl)."},
    )
    list_length: int | None = field(
        default=None, metadata={"help": "distillation: passages in a query's list. (default: 6)"}
    )
    sampling: Literal["dgr_paper", "top", "spread", "gap"] | None = field(
        default=None,
        metadata={
            "help": "distillation: draw the list as published, take the teacher's first, draw from all parts of its "
            "rank list, or take scores far apart. (default: dgr_paper)"
        },
    )
    false_negative_margin: float | None = field(
        default=None,
        metadata={
            "help": "distillation: leave out unjudged passages that the teacher scores above the relevant one by more "
            "than this. (default: None)"
        },
    )
    teacher_order: bool = field(
        default=False, metadata={"help": "distillation: teach the teacher's order alone, relevant passage or not."}
    )
    max_row_tokens: int | None = field(
        default=None, metadata={"help": "distillation: longest packed row of the decoder. (default: 256)"}
    )
    overwrite: bool = field(
        default=False, metadata={"help": "Train anew where an earlier run was: its checkpoints are deleted."}
    )


@dataclass
class LoraOptions:
    """A LoRA adapter in place of full fine-tuning."""

    _argument_group_name = "LoRA"

    lora_r: int = field(default=0, metadata={"help": "Rank of a LoRA adapter; 0 trains the whole model. (default: 0)"})
    lora_alpha: int | None = field(default=None, metadata={"help": "Its scale. (default: twice the rank)"})
    lora_dropout: float = field(default=0.0, metadata={"help": "Its dropout. (default: 0.0)"})
    lora_target_modules: list[str] | None = field(
        default=None, metadata={"help": "Modules it is put on, such as q_proj v_proj. (default: peft's for the model)"}
    )


@dataclass
class EvaluationOptions:
    """Retrieval while training: metrics such as `eval_hits@10`, for `--eval_strategy` and the best model."""

    _argument_group_name = "retrieval at evaluation"

    eval_queries: str | None = field(
        default=None,
        metadata={"metavar": "PATH", "help": "Queries to evaluate retrieval on (--eval_strategy, and at the end)."},
    )
    eval_qrels: str | None = field(default=None, metadata={"metavar": "PATH", "help": "Their qrels."})
    eval_split: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "Their split, in a BEIR folder, such as dev."}
    )
    eval_metrics: list[str] = field(
        default_factory=lambda: ["hits@1", "hits@5", "hits@20", "mrr@10", "ndcg@10"],
        metadata={"help": "Metrics, as of `dgr evaluate`."},
    )
    eval_k: int = field(default=100, metadata={"help": "Passages to search for a query."})
    eval_beam_size: int | None = field(
        default=None, metadata={"help": "Beams; fewer are faster. (default: the retriever's)"}
    )
    eval_max_queries: int | None = field(default=None, metadata={"help": "Evaluate on a sample of so many queries."})
