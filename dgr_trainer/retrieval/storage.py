"""The folder of a saved retriever: a Hugging Face model folder that also holds the index."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from transformers import AutoTokenizer, PreTrainedModel

from dgr_trainer.data.corpus import Corpus
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.files.atomic import atomic_folder, atomic_write, read_folder
from dgr_trainer.identifier_weights import ScoringSettings
from dgr_trainer.identifiers import Identifiers, IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.retrieval.adapter_storage import (
    ADAPTER_CONFIG,
    describe_adapters,
    load_adapters,
    save_adapters,
)
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.semantic_ids.ids import SemanticIds
from dgr_trainer.student.students import load_student_model
from dgr_trainer.student.weights import align_weights

DESCRIPTION = "retriever.json"
SEMANTIC_IDS = "semantic_ids"
"""The folder of semantic ids, in that of a retriever, or of a student that has their tokens."""
_FORMAT_VERSION = 1


@dataclass(frozen=True)
class RetrieverParts:
    """The parts of a [`GenerativeRetriever`]: its arguments, by name."""

    model: PreTrainedModel | torch.nn.Module
    identifiers: Identifiers
    index: FMIndex
    corpus: Corpus | None
    settings: SearchSettings
    scoring: ScoringSettings
    semantic_ids: SemanticIds | None = None


def save_retriever(parts: RetrieverParts, path: Path) -> None:
    """Write a retriever to a folder; see `GenerativeRetriever.save_pretrained`.

    An index that was loaded from another folder stays the one of that folder; otherwise it is the one written here.
    """
    model: Any = extract_model_from_parallel(parts.model, keep_fp32_wrapper=True, keep_torch_compile=False)
    description = _describe(parts)
    adapters = describe_adapters(model)
    if adapters is not None:
        description["adapters"] = adapters
    index_folder = (path / "index").absolute()
    with atomic_folder(path, marker=DESCRIPTION) as folder:
        if adapters is None:
            model.save_pretrained(folder)
        else:
            save_adapters(model, folder, adapters)
        parts.identifiers.tokenizer.save_pretrained(folder)
        saved = parts.index._save_in_new(folder / "index", index_folder)
        if parts.corpus is not None:
            parts.corpus.save_to_disk(folder / "corpus")
        if parts.semantic_ids is not None:
            parts.semantic_ids.save(folder / SEMANTIC_IDS)
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    if parts.index.loaded_from is None or parts.index.loaded_from[0] == index_folder:
        parts.index._is_saved(index_folder, saved)


def stored_semantic_ids(path: Path) -> SemanticIds | None:
    """The semantic ids in the folder of a retriever or of a student; `None` if it has none."""
    return SemanticIds.load(path / SEMANTIC_IDS) if (path / SEMANTIC_IDS).is_dir() else None


def add_index(parts: RetrieverParts, folder: Path) -> None:
    """Make the folder of a saved model and its tokenizer that of a retriever, by adding the index and the settings.

    Args:
        parts ([`RetrieverParts`]): The retriever, whose model is saved already.
        folder (`pathlib.Path`): The folder.

    Raises:
        ValueError: if the model has adapters that are not saved as one adapter in the folder itself.
    """
    model: Any = extract_model_from_parallel(parts.model, keep_fp32_wrapper=True, keep_torch_compile=False)
    description = _describe(parts)
    adapters = describe_adapters(model)
    if adapters is not None:
        if adapters["others"] or not (folder / ADAPTER_CONFIG).is_file():
            raise DGRValueError(
                f"The model has the adapters {', '.join([adapters['root'], *adapters['others']])}, which a trainer "
                "does not save as a retriever. Give the trainer a model with one adapter, named default."
            )
        description["adapters"] = adapters
    # A copy, as an index takes the folder that it is saved to for its own. Its files never change, and are linked.
    copy.copy(parts.index).save(folder / "index", link=True)
    if parts.semantic_ids is not None:
        parts.semantic_ids.save(folder / SEMANTIC_IDS)
    with atomic_write(folder / DESCRIPTION) as file:
        file.write(json.dumps(description, indent=2) + "\n")


def _describe(parts: RetrieverParts) -> dict[str, Any]:
    return {
        "format_version": _FORMAT_VERSION,
        "tokenizer_fingerprint": parts.identifiers.fingerprint,
        "identifiers": parts.identifiers.settings.to_dict(),
        "search": parts.settings.to_dict(),
        "scoring": parts.scoring.to_dict(),
    }


def load_parts(path: Path, base_model: PreTrainedModel | None, model_kwargs: dict[str, Any]) -> RetrieverParts:
    """Load what `save_retriever` wrote."""
    return read_folder(path, lambda folder: _load_parts(folder, base_model, model_kwargs))


def _load_parts(path: Path, base_model: PreTrainedModel | None, model_kwargs: dict[str, Any]) -> RetrieverParts:
    if not (path / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"{path} holds no {DESCRIPTION}, so it is not a saved retriever. Give a folder that "
            "GenerativeRetriever.save_pretrained wrote."
        )
    description = json.loads((path / DESCRIPTION).read_text(encoding="utf-8"))
    version = description.get("format_version")
    if version != _FORMAT_VERSION:
        raise DGRValueError(
            f"The retriever at {path} has format version {version}; this version of dgr-trainer reads version "
            f"{_FORMAT_VERSION}. Install the version that wrote it, or save the retriever again."
        )
    is_adapter = (path / ADAPTER_CONFIG).is_file()
    present = {
        "the model": is_adapter or (path / "config.json").is_file(),
        "the tokenizer": (path / "tokenizer_config.json").is_file(),
        "the index": (path / "index").is_dir(),
    }
    missing = [name for name, is_present in present.items() if not is_present]
    if missing:
        raise FileNotFoundError(
            f"The retriever at {path} is incomplete: {' and '.join(missing)} missing. Copy the whole folder, or "
            "save the retriever again."
        )
    with input_errors(f"The tokenizer at {path} cannot be loaded", Exception):
        tokenizer = AutoTokenizer.from_pretrained(path)
    identifiers = Identifiers(tokenizer, IdentifierSettings.from_dict(description["identifiers"]))
    index = FMIndex.load(path / "index", tokenizer_fingerprint=identifiers.fingerprint)
    with input_errors(f"The model at {path} cannot be loaded", Exception):
        model = _load_model(path, is_adapter, description.get("adapters"), base_model, model_kwargs)
    return RetrieverParts(
        model=align_weights(model),
        identifiers=identifiers,
        index=index,
        corpus=Corpus.load_from_disk(path / "corpus") if (path / "corpus").is_dir() else None,
        settings=SearchSettings.from_dict(description["search"]),
        scoring=ScoringSettings.from_dict(description["scoring"]),
        semantic_ids=stored_semantic_ids(path),
    )


def _load_model(
    path: Path,
    is_adapter: bool,
    adapters: dict[str, Any] | None,
    base_model: PreTrainedModel | None,
    model_kwargs: dict[str, Any],
) -> torch.nn.Module:
    if not is_adapter:
        model: torch.nn.Module = load_student_model(path, **model_kwargs)
        return model.eval()
    from peft import PeftConfig

    if base_model is None:
        name = PeftConfig.from_pretrained(str(path)).base_model_name_or_path
        try:
            base_model = load_student_model(name, **model_kwargs)
        except OSError as error:
            raise FileNotFoundError(
                f"The adapter at {path} belongs to the model {name!r}, which cannot be loaded ({error}). Pass the "
                "model as base_model."
            ) from error
    return load_adapters(base_model, path, adapters).eval()
