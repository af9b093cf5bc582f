"""Retrievers on the Hugging Face Hub: a saved retriever is a repository of a model that also holds an index."""

from __future__ import annotations

import copy
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import CommitInfo

from dgr_trainer.errors import DGRValueError
from dgr_trainer.files.atomic import atomic_folder, check_replaceable, restore_folder, with_own_name
from dgr_trainer.hub.file_names import files_to_upload
from dgr_trainer.hub.measurements import Measurements, Metrics, read_measurements
from dgr_trainer.hub.model_card import (
    CardFacts,
    check_license,
    listed,
    needed_license,
    retriever_usage,
    write_card,
    written_by_somebody,
)
from dgr_trainer.hub.repositories import CARD, HubRepository, check_repo_id, is_repo_id
from dgr_trainer.identifiers import IdentifierSettings
from dgr_trainer.index import FMIndex
from dgr_trainer.processes.jobs import job_lock
from dgr_trainer.retrieval.adapter_storage import ADAPTER_CONFIG
from dgr_trainer.retrieval.storage import DESCRIPTION, SEMANTIC_IDS, RetrieverParts, save_retriever

logger = logging.getLogger(__name__)

COMMIT_MESSAGE = "Upload retriever"
_SUBFOLDERS = ("index", "adapters", SEMANTIC_IDS)
_CORPUS = "corpus"
# Files of a retriever that another one may not have: an adapter, weights in parts, segments of an older index.
_REPLACED = ("index/*", "adapters/*", "corpus/*", f"{SEMANTIC_IDS}/*")
_REPLACED_AT_THE_ROOT = (ADAPTER_CONFIG, "adapter_model.safetensors", "config.json", "generation_config.json")
_NEEDED = (DESCRIPTION, "index/index.json")


@dataclass(frozen=True)
class CardOptions:
    """What the model card of a retriever says beside what its files tell; see `GenerativeRetriever.push_to_hub`."""

    license: str | None = None
    metrics: Metrics | None = None
    evaluated_on: str | None = None
    metrics_run: str | None = None
    datasets: str | Sequence[str] = ()
    language: str | Sequence[str] = ()
    tags: str | Sequence[str] = ()
    base_model: str | None = None

    def measured(self) -> list[Measurements]:
        """The results of the evaluation, if any. Raises a `ValueError` if they, or the licence, cannot be used."""
        check_license(self.license)
        measured = read_measurements(self.metrics, self.evaluated_on, self.metrics_run)
        return [] if measured is None else [measured]


@dataclass(frozen=True)
class CommitOptions:
    """How a retriever is uploaded; see `GenerativeRetriever.push_to_hub`."""

    include_corpus: bool = False
    private: bool | None = None
    commit_message: str = COMMIT_MESSAGE
    commit_description: str | None = None
    create_pr: bool = False


def push_retriever(
    parts: RetrieverParts, repository: HubRepository, card: CardOptions, commit: CommitOptions
) -> CommitInfo:
    """Save a retriever to a temporary folder, and upload it; see `GenerativeRetriever.push_to_hub`."""
    check_repo_id(repository.repo_id)
    card.measured()
    if commit.include_corpus and parts.corpus is None:
        raise DGRValueError(
            "include_corpus is set, but the retriever has no corpus. Make it with corpus=..., or leave it out."
        )
    with tempfile.TemporaryDirectory(prefix="dgr-push-") as temporary:
        folder = Path(temporary) / "retriever"
        # A copy: an index takes the folder that it is saved to for its own.
        index = copy.copy(parts.index)
        save_retriever(replace(parts, index=index, corpus=parts.corpus if commit.include_corpus else None), folder)
        return push_folder(folder, repository, card, commit)


def push_folder(folder: Path, repository: HubRepository, card: CardOptions, commit: CommitOptions) -> CommitInfo:
    """Upload the folder of a retriever, with a model card; files that the repository has already are not sent again.

    Args:
        folder (`pathlib.Path`): What `GenerativeRetriever.save_pretrained` wrote. It is not changed.
        repository ([`HubRepository`]): The repository; created if it does not exist.
        card ([`CardOptions`]): What the model card says.
        commit ([`CommitOptions`]): How it is uploaded.

    Returns:
        [`~huggingface_hub.CommitInfo`]: the commit.

    Raises:
        FileNotFoundError: if the folder holds no retriever, or its corpus is asked for and missing.
        ValueError: if it holds a pickle, an adapter of a model that nobody else has, or no licence is given.
        OSError: if the Hub cannot be reached, or does not allow it.
    """
    check_repo_id(repository.repo_id)
    measured = card.measured()
    restore_folder(folder)
    if not (folder / DESCRIPTION).is_file():
        raise FileNotFoundError(
            f"{folder} holds no {DESCRIPTION}, so it is not a saved retriever. Give a folder that "
            "GenerativeRetriever.save_pretrained or `dgr train` wrote."
        )
    if commit.include_corpus and not (folder / _CORPUS).is_dir():
        raise FileNotFoundError(
            f"The retriever at {folder} has no corpus to include. Save it with its corpus, or leave it out."
        )
    subfolders = (*_SUBFOLDERS, _CORPUS) if commit.include_corpus else _SUBFOLDERS
    names = files_to_upload(folder, subfolders)
    facts = replace(_facts(folder, repository.repo_id, card, commit.include_corpus), measured=measured)
    rewritten = _adapters_of(folder, names, facts.base_model) if facts.adapter else {}
    repository = repository.with_owner()
    own_card = written_by_somebody((folder / CARD).read_text(encoding="utf-8") if CARD in names else None)
    existing = own_card if own_card is not None else repository.existing_card()
    facts = replace(facts, repo_id=repository.repo_id, license=needed_license(card.license, existing))
    facts = replace(facts, usage=retriever_usage(repository.repo_id, repository.revision))
    replaced = [*_REPLACED, *(name for name in _REPLACED_AT_THE_ROOT if name not in names)]
    with tempfile.TemporaryDirectory(prefix="dgr-push-") as temporary:
        upload = Path(temporary)
        for name in names:
            (upload / name).parent.mkdir(parents=True, exist_ok=True)
            (upload / name).symlink_to((folder / name).resolve())
        for name, text in {CARD: write_card(facts, existing), **rewritten}.items():
            (upload / name).unlink(missing_ok=True)
            (upload / name).write_text(text, encoding="utf-8")
        return repository.upload(
            upload,
            sorted({*names, CARD}),
            replaces=[*replaced, *_stale_weights(names)],
            private=commit.private,
            commit_message=commit.commit_message,
            commit_description=commit.commit_description,
            create_pr=commit.create_pr,
        )


def find_retriever(
    name: str | os.PathLike[str],
    *,
    revision: str | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    token: str | bool | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder of a retriever: a path on the disk, or else one in the cache, to which it is downloaded.

    A name that is that of a folder is a folder, whatever the Hub has.
    """
    path = Path(name)
    restore_folder(path)
    if isinstance(name, os.PathLike) or path.exists() or not is_repo_id(str(name)):
        if revision is not None and path.exists():
            raise DGRValueError(f"{path} is a folder on the disk, which has no revisions. Leave revision out.")
        return path
    return HubRepository(str(name), revision, token).download(
        _NEEDED, cache_dir=cache_dir, local_files_only=local_files_only, force_download=force_download
    )


def pull_retriever(repository: HubRepository, folder: Path) -> None:
    """Download a retriever to a folder, which appears when it is complete.

    Until then its files are in a hidden folder beside it, from which the same call goes on after an interruption.

    Args:
        repository ([`HubRepository`]): The repository.
        folder (`pathlib.Path`): A new or empty folder, or one of a retriever, which is replaced.

    Raises:
        FileExistsError: if the folder holds other files.
        RuntimeError: if another job is downloading to it.
        ValueError: if the repository holds a pickle.
        OSError: if there is no such repository, or the Hub cannot be reached.
    """
    check_repo_id(repository.repo_id)
    folder = with_own_name(folder)
    check_replaceable(folder, marker=DESCRIPTION)
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = folder.with_name(f".{folder.name}.download")
    with job_lock(folder.with_name(f".{folder.name}.download.lock"), folder.name, None):
        repository.download_to(unfinished, _NEEDED)
        with atomic_folder(folder, marker=DESCRIPTION) as new:
            for entry in sorted(unfinished.iterdir()):
                os.rename(entry, new / entry.name)
        shutil.rmtree(unfinished)


def _facts(folder: Path, repo_id: str, card: CardOptions, has_corpus: bool) -> CardFacts:
    """What the files of a retriever tell."""
    description = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
    identifiers = IdentifierSettings.from_dict(description["identifiers"])
    index = FMIndex.load(folder / "index", tokenizer_fingerprint=description["tokenizer_fingerprint"])
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    file = folder / (ADAPTER_CONFIG if is_adapter else "config.json")
    if not file.is_file():
        raise FileNotFoundError(f"{folder} holds no {file.name}, so the model is missing. Save the retriever again.")
    config = json.loads(file.read_text(encoding="utf-8"))
    base_model = card.base_model or (config.get("base_model_name_or_path") if is_adapter else None)
    if is_adapter:
        model = f"an adapter ({config.get('peft_type', 'PEFT')}) of `{base_model}`"
    else:
        model = f"`{(config.get('architectures') or [config.get('model_type', 'a model')])[0]}`"
    views = ", ".join(view.replace("_", " ") for view in identifiers.views)
    introduction = (
        f"A generative retriever: {model} that finds passages by generating their identifiers ({views}), which an "
        f"FM-index restricts to those that occur in {index.num_passages:,} passages.\n\n"
        + ("The passages are in `corpus/`. " if has_corpus else "The passages are not included, but ")
        + (
            "The index holds their tokens as well. "
            if has_corpus
            else "the index holds their tokens, from which their text can be restored. "
        )
        + "A licence for the model does not extend to them."
    )
    settings = {name: description[name] for name in ("search", "scoring")}
    return CardFacts(
        repo_id=repo_id,
        introduction=introduction,
        usage="",
        language=listed(card.language),
        tags=listed(card.tags),
        datasets=listed(card.datasets),
        base_model=base_model,
        adapter=is_adapter,
        sections={"Settings": f"```json\n{json.dumps(settings, indent=2)}\n```"},
    )


def _adapters_of(folder: Path, names: Sequence[str], base_model: str | None) -> dict[str, str]:
    """The configurations of adapters, which have to name a model that others can load."""
    rewritten = {}
    for name in names:
        if name.split("/")[-1] != ADAPTER_CONFIG:
            continue
        config = json.loads((folder / name).read_text(encoding="utf-8"))
        config["base_model_name_or_path"] = base_model
        rewritten[name] = json.dumps(config, indent=2, sort_keys=True) + "\n"
    if base_model is None or Path(base_model).exists() or not is_repo_id(base_model):
        raise DGRValueError(
            f"The adapter belongs to the model {base_model!r}, which is not a name on the Hub, so that nobody else "
            "could load it. Give the name that this model has on the Hub as base_model, or merge the adapter with "
            "model.merge_and_unload() and save the retriever again."
        )
    return rewritten


def _stale_weights(names: Sequence[str]) -> list[str]:
    """Names of weights that a retriever may have had: in one file, or in up to 99,999 parts."""
    stale = [] if "model.safetensors" in names else ["model.safetensors"]
    if "model.safetensors.index.json" not in names:
        stale.append("model.safetensors.index.json")
    return [*stale, "model-[0-9][0-9][0-9][0-9][0-9]-of-*.safetensors"]
