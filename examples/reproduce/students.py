"""Students: a pretrained checkpoint, or small models that begin with random weights and a tokenizer of the corpus."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import BartConfig, BartForConditionalGeneration, PreTrainedModel, PreTrainedTokenizerBase

from dgr_trainer import Corpus, Identifiers
from dgr_trainer.quickstart.pipeline import CHECKPOINT
from dgr_trainer.quickstart.student import train_tokenizer
from dgr_trainer.student.students import load_student_model


def model_path(name: str, models: Path | None) -> str:
    """A checkpoint's folder below `--models` if it is there, else the name: another folder, or one on the hub.

    `quickstart-checkpoint` is the small BART that comes with the library.
    """
    if name == "quickstart-checkpoint":
        return str(CHECKPOINT)
    local = None if models is None else models / name
    return str(local) if local is not None and local.is_dir() else name


def make_tokenizer(corpus: Corpus, vocabulary: int) -> PreTrainedTokenizerBase:
    """A tokenizer trained on the passages and their questions."""
    return train_tokenizer(corpus, vocabulary)


def load_student(folder: str) -> PreTrainedModel:
    """A student in float32, on the accelerator if there is one."""
    model: PreTrainedModel = load_student_model(folder, dtype=torch.float32)
    return model.to("cuda") if torch.cuda.is_available() else model


def new_student(scratch: Mapping[str, Any], identifiers: Identifiers, seed: int) -> PreTrainedModel:
    """A BART with random weights, of the sizes that the preset gives."""
    torch.manual_seed(seed)
    sizes = {name: size for name, size in scratch.items() if name not in ("kind", "vocabulary")}
    if scratch["kind"] != "bart":
        raise SystemExit(
            f"A scratch student is of kind {scratch['kind']!r}, but only 'bart' can be made from scratch."
        )
    tokenizer = identifiers.tokenizer
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=identifiers.vocab_size,
            bos_token_id=tokenizer.bos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            decoder_start_token_id=tokenizer.eos_token_id,
            forced_eos_token_id=None,
            **sizes,
        )
    )
