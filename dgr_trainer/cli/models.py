"""Models of the command line: tokenizers, students and retrievers are loaded, devices checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dgr_trainer.cli.paths import input_path
from dgr_trainer.cli.sources import RETRIEVER_MARKER, index_folder
from dgr_trainer.cli.start_up import paused_collection
from dgr_trainer.errors import DGRError, DGRMemoryError, DGRValueError, input_errors, one_line

if TYPE_CHECKING:
    from accelerate import PartialState

    from dgr_trainer.cli.settings import DeviceOptions, SearchOptions
    from dgr_trainer.cli.train_options import LoraOptions
    from dgr_trainer.identifiers import Identifiers, IdentifierSettings
    from dgr_trainer.retrieval.retriever import GenerativeRetriever


LESS_MEMORY = "Lower --batch_size or --beam_size, or give --device cpu."
"""Advice for a search that runs out of memory."""


def load_identifiers(name: str, settings: IdentifierSettings) -> Identifiers:
    """Load the tokenizer of a model, for identifiers with these settings."""
    from transformers import AutoTokenizer

    from dgr_trainer.identifiers import Identifiers

    with input_errors(f"--model: the tokenizer of {name} cannot be loaded", Exception):
        tokenizer = AutoTokenizer.from_pretrained(name)
    return Identifiers(tokenizer, settings)


def load_student(name: str, lora: LoraOptions) -> Any:
    """Load the model to train in full precision: all of it, the adapter it was saved with, or with a new adapter."""
    import torch

    from dgr_trainer.student.students import load_student_model, student_of

    is_adapter = (Path(name) / "adapter_config.json").is_file()
    if is_adapter and lora.lora_r:
        raise DGRValueError(f"--lora_r: {name} has an adapter already, which is trained further. Leave --lora_r out.")
    with input_errors(f"--model: {name} cannot be loaded", Exception):
        if is_adapter:
            from peft import PeftConfig, PeftModel

            base = PeftConfig.from_pretrained(name).base_model_name_or_path
            model = load_student_model(base, dtype=torch.float32)
            return PeftModel.from_pretrained(model, name, is_trainable=True)
        model = load_student_model(name, dtype=torch.float32)
    if not lora.lora_r:
        return model
    from peft import LoraConfig, get_peft_model

    added = _added_tokens(name, model) if lora.lora_added_tokens else None
    with input_errors(f"--lora_r {lora.lora_r}: no adapter can be added to {name}", ValueError, TypeError):
        config = LoraConfig(
            task_type=student_of(model).peft_task,
            r=lora.lora_r,
            lora_alpha=lora.lora_alpha or 2 * lora.lora_r,
            lora_dropout=lora.lora_dropout,
            target_modules=lora.lora_target_modules,
            trainable_token_indices=added,
        )
        return get_peft_model(model, config)


def _added_tokens(name: str, model: Any) -> dict[str, list[int]]:
    """The tokens that were added to the tokenizer of a model, as an adapter that trains their rows needs them."""
    from transformers import AutoTokenizer

    from dgr_trainer.semantic_ids.tokens import added_tokens, trainable_token_indices

    added = list(added_tokens(AutoTokenizer.from_pretrained(name)))
    if not added:
        raise DGRValueError(f"--lora_added_tokens: no token was added to the tokenizer of {name}. Leave it out.")
    return trainable_token_indices(model, added)


def check_retriever(path: str, search: SearchOptions) -> Path:
    """Check the folder of a retriever and the search settings before anything is loaded.

    Returns:
        `pathlib.Path`: The folder.

    Raises:
        OSError: if the folder is missing or holds no retriever.
        ValueError: if its description is damaged, or the settings cannot be used.
    """
    from dgr_trainer.hub.repositories import is_repo_id
    from dgr_trainer.retrieval.settings import SearchSettings, read_settings

    if "/" in path and is_repo_id(path) and not Path(path).parent.exists():
        raise FileNotFoundError(
            f"RETRIEVER: {path} does not exist. If it is the name of a retriever on the Hub, download it first: "
            f"dgr pull {path} FOLDER."
        )
    folder = input_path("RETRIEVER", path, folder=True)
    retriever = index_folder(folder)
    if retriever is None or retriever.marker != RETRIEVER_MARKER:
        raise FileNotFoundError(
            f"{path} is not the folder of a retriever: it has no {RETRIEVER_MARKER}. `dgr train --index ...` writes "
            "one, and so does GenerativeRetriever.save_pretrained."
        )
    SearchSettings(**search.given())
    if search.settings is not None:
        read_settings(input_path("--settings", search.settings, folder=False))
    return folder


def load_retriever(
    path: Path, search: SearchOptions, device: DeviceOptions, processes: PartialState | None = None
) -> GenerativeRetriever:
    """Load a retriever onto a device; the search settings that were given replace the saved ones."""
    with paused_collection():
        return _load_retriever(path, search, device, processes)


def _load_retriever(
    path: Path, search: SearchOptions, device: DeviceOptions, processes: PartialState | None
) -> GenerativeRetriever:
    import torch
    from transformers.utils import logging as transformers_logging

    from dgr_trainer.retrieval.retriever import GenerativeRetriever
    from dgr_trainer.retrieval.settings import read_settings

    cast(Any, transformers_logging).disable_progress_bar()
    check_device(device.device)
    retriever = GenerativeRetriever.from_pretrained(path, dtype=getattr(torch, device.dtype))
    model: torch.nn.Module = retriever.model
    default = ("cuda" if torch.cuda.is_available() else "cpu") if processes is None else processes.device
    with memory_advice("Give --device cpu, or --dtype bfloat16."):
        model.to(device.device or default)
    settings = retriever.settings
    if search.settings is not None:
        settings, retriever.scoring = read_settings(search.settings)
    retriever.settings = dataclasses.replace(settings, **search.given())
    return retriever


def check_device(device: str | None) -> None:
    """Check that torch knows a device and that the machine has it. Raises a `ValueError` if not."""
    if device is None:
        return
    import torch

    with input_errors(f"--device {device} cannot be used", RuntimeError, AssertionError):
        torch.empty(0, device=device)


@contextmanager
def memory_advice(advice: str) -> Iterator[None]:
    """Raise a [`DGRMemoryError`] with this advice where a device or the machine runs out of memory."""
    import torch

    try:
        yield
    except DGRError:
        raise
    except (RuntimeError, MemoryError) as error:
        # On a CPU, torch raises a plain RuntimeError.
        if isinstance(error, RuntimeError) and not isinstance(error, torch.OutOfMemoryError):
            if "can't allocate memory" not in str(error):
                raise
        raise DGRMemoryError(f"There is not enough memory ({one_line(error)}). {advice}") from error
