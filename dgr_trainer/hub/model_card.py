"""Model cards: the README.md of a repository, whose metadata the Hub reads.

A card is written between two comments. Text that somebody writes outside of them is kept when the card is written
again, and so are metadata of other names. Results go, since they are those of the weights that were there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from dgr_trainer._version import __version__
from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.hub.measurements import Measurements

LIBRARY_NAME = "dgr-trainer"
TAGS = ("generative-retrieval", "information-retrieval", LIBRARY_NAME)
UNKNOWN_LICENSE = "unknown"
_BEGIN, _END = "<!-- dgr-trainer: written by push_to_hub from here -->", "<!-- dgr-trainer: to here -->"
_WRITTEN = re.compile(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", re.DOTALL)
# Metadata of the weights that a card was written for.
_OF_WEIGHTS = ("model-index", "metrics", "base_model_relation")
_LICENSE = re.compile(r"[a-z0-9][a-z0-9.\-]*")


@dataclass(frozen=True)
class CardFacts:
    """What a model card says.

    Args:
        repo_id (`str`): The repository.
        introduction (`str`): What the model is.
        usage (`str`): Python code that uses it.
        title (`str`, *optional*): Heading; by default the name of the repository.
        license (`str`, *optional*): Identifier of the licence; `None` keeps that of the card which is there.
        language (`Sequence[str]`, *optional*): Codes of languages.
        tags (`Sequence[str]`, *optional*): More tags.
        datasets (`Sequence[str]`, *optional*): Data sets that it was trained on.
        base_model (`str`, *optional*): The model of the Hub that it was made of.
        adapter (`bool`, *optional*, defaults to `False`): Whether it is an adapter of that model.
        measured (`Sequence[Measurements]`, *optional*): Results of evaluations.
        sections (`Mapping[str, str]`, *optional*): Further text by heading.
    """

    repo_id: str
    introduction: str
    usage: str
    title: str | None = None
    license: str | None = None
    language: Sequence[str] = ()
    tags: Sequence[str] = ()
    datasets: Sequence[str] = ()
    base_model: str | None = None
    adapter: bool = False
    measured: Sequence[Measurements] = ()
    sections: Mapping[str, str] = field(default_factory=dict)


def check_license(license: str | None) -> None:
    """Raise a `ValueError` if this is not an identifier of a licence."""
    if license is not None and not _LICENSE.fullmatch(license):
        raise DGRValueError(
            f"license is {license!r}, but the Hub names licences by identifiers such as apache-2.0, mit, "
            "cc-by-4.0, other and unknown."
        )


def written_by_somebody(card: str | None) -> str | None:
    """The card, or `None` if it is the empty template that peft saves with an adapter."""
    is_template = card is not None and "[More Information Needed]" in card and "library_name: peft" in card
    return None if is_template else card


def license_of(card: str | None) -> str | None:
    """The licence in the metadata of a card; `None` if it has none."""
    return None if card is None else _metadata(card).get("license")


def needed_license(license: str | None, card: str | None) -> str:
    """The licence that was given, or the one of the card that is there.

    Raises:
        ValueError: if there is neither.
    """
    found = license or license_of(card)
    if not found:
        raise DGRValueError(
            "No licence is given, so nobody would know whether they may use the model. Give license (--license), "
            "such as 'apache-2.0'; 'other' with a text of your own in the card; or 'unknown' if it is not decided."
        )
    return str(found)


def write_card(facts: CardFacts, existing: str | None = None) -> str:
    """The text of a model card.

    Args:
        facts ([`CardFacts`]): What it says.
        existing (`str`, *optional*): The card that is there. Its text is kept, except for what an earlier call wrote,
            and so are its metadata, except for results.

    Returns:
        `str`: Metadata as YAML, and text as Markdown.

    Raises:
        ValueError: if the metadata of the existing card cannot be read.
    """
    kept = {} if existing is None else _metadata(existing)
    name = facts.title or facts.repo_id.split("/")[-1]
    data = ModelCardData(
        language=list(facts.language) or None,
        license=facts.license or kept.get("license") or UNKNOWN_LICENSE,
        library_name=LIBRARY_NAME,
        tags=list(dict.fromkeys([*TAGS, *facts.tags, *listed(kept.get("tags"))])),
        datasets=list(facts.datasets) or None,
        base_model=facts.base_model,
        metrics=list(dict.fromkeys(value.name for measured in facts.measured for value in measured.values)) or None,
        model_name=name,
        eval_results=[_result(value, measured) for measured in facts.measured for value in measured.values] or None,
    )
    if not facts.measured:
        data.model_name = None
    metadata = {name: value for name, value in kept.items() if name not in _OF_WEIGHTS} | _dict(data)
    if facts.adapter and facts.base_model:
        metadata["base_model_relation"] = "adapter"
    written = f"{_BEGIN}\n\n{_body(facts, name)}\n\n{_END}"
    text = written
    if existing is not None:
        text = ModelCard(existing, ignore_metadata_errors=True).text
        # A function, because text may hold backslashes.
        text = _WRITTEN.sub(lambda _: written, text, count=1) if _WRITTEN.search(text) else text
    head = ModelCardData(ignore_metadata_errors=True, **metadata).to_yaml()
    return f"---\n{head}\n---\n\n{text.strip()}\n"


def _metadata(card: str) -> dict[str, Any]:
    with input_errors("The metadata at the head of README.md cannot be read", Exception):
        return _dict(ModelCard(card).data)


def _dict(data: Any) -> dict[str, Any]:
    values: dict[str, Any] = data.to_dict()
    return values


def _result(value: Any, measured: Measurements) -> EvalResult:
    return EvalResult(
        task_type="information-retrieval",
        task_name="Information retrieval",
        dataset_type=measured.dataset,
        dataset_name=measured.dataset,
        metric_type=value.name,
        metric_name=value.name,
        metric_value=value.value,
    )


def _body(facts: CardFacts, name: str) -> str:
    parts = [f"# {name}", facts.introduction, "## How to use", f"```python\n{facts.usage.strip()}\n```"]
    parts.append(f"Install the library with `pip install {LIBRARY_NAME}`.")
    if facts.measured:
        parts.append("## Evaluation")
        parts += [_table(measured) for measured in facts.measured]
    for heading, text in facts.sections.items():
        parts += [f"## {heading}", text]
    parts.append(f"Written by {LIBRARY_NAME} {__version__}.")
    return "\n\n".join(parts)


def _table(measured: Measurements) -> str:
    intervals = any(value.low is not None for value in measured.values)
    lines = [f"| metric | value |{' interval |' if intervals else ''}", f"|---|---|{'---|' if intervals else ''}"]
    for value in measured.values:
        between = "" if value.low is None or value.high is None else f"{value.low:.4f} to {value.high:.4f}"
        lines.append(f"| {table_cell(value.name)} | {value.value:.4f} |{f' {between} |' if intervals else ''}")
    about = f"On {measured.dataset}"
    if measured.queries is not None:
        about += f", {measured.queries:,} queries"
    if intervals and measured.level is not None:
        about += f"; bootstrap intervals of the mean, {measured.level:.0%}"
    return f"{about}:\n\n" + "\n".join(lines)


def table_cell(text: str) -> str:
    """A text as it stands in a cell of a table of Markdown."""
    return " ".join(text.split()).replace("|", "\\|")


def retriever_usage(repo_id: str, revision: str | None = None) -> str:
    """Python code that searches with the retriever of a repository."""
    at = "" if revision is None else f", revision={revision!r}"
    return f"""
from dgr_trainer import GenerativeRetriever

retriever = GenerativeRetriever.from_pretrained("{repo_id}"{at})
for hit in retriever.search("a question", k=5)[0]:
    print(hit.passage_id, hit.score)
"""


def listed(value: str | Sequence[str] | None) -> list[str]:
    """A list of what was given as one string or several."""
    return [value] if isinstance(value, str) else list(value or [])
