"""What stages read of the stages before them."""

from __future__ import annotations

from questions import Questions, read_questions
from store import Place
from students import model_path
from transformers import AutoTokenizer

from dgr_trainer import Corpus, FMIndex, Identifiers, IdentifierSettings, ScoringSettings, SearchSettings, SemanticIds
from dgr_trainer.retrieval.settings import read_settings


def questions_of(place: Place) -> Questions:
    return read_questions(str(place.store.data / place.input("corpus").config["name"]))


def semantic_ids_of(place: Place) -> SemanticIds | None:
    """The codes that the student generates, if it generates those."""
    return SemanticIds.load(place.input("semantic_ids").folder / "codes") if place.has("semantic_ids") else None


def with_docids(place: Place, corpus: Corpus) -> Corpus:
    """The corpus with the docids that the student generates, if it generates those."""
    codes = semantic_ids_of(place)
    return corpus if codes is None else codes.with_docids(corpus)


def checkpoint_folder(place: Place) -> str | None:
    """The student's checkpoint, as the preset names it; `None` for one that begins with random weights."""
    tokenizer = place.input("tokenizer")
    checkpoint = tokenizer.config.get("checkpoint")
    return None if checkpoint is None else model_path(checkpoint, place.store.models)


def identifiers_of(place: Place) -> Identifiers:
    """Views and prompts of the student's tokenizer: that of its checkpoint, or one that a stage made."""
    tokenizer, with_codes = place.input("tokenizer"), place.has("semantic_ids")
    given = {"views": ("docid",)} if with_codes else {}
    settings = IdentifierSettings(**{**given, **tokenizer.config.get("identifiers", {})})
    own = None if with_codes else checkpoint_folder(place)
    return Identifiers(AutoTokenizer.from_pretrained(own or tokenizer.folder / "tokenizer"), settings)


def index_of(place: Place) -> FMIndex:
    return FMIndex.load(place.input("index").folder / "index")


def settings_of(place: Place) -> tuple[SearchSettings, ScoringSettings]:
    """How to search: as tuned on dev, or as the preset says."""
    if place.has("settings"):
        return read_settings(place.input("settings").folder / "settings.json")
    given = place.config["settings"]
    return SearchSettings(**given["search"]), ScoringSettings(**given["scoring"])


def scoring_of(place: Place) -> ScoringSettings:
    """How identifiers are weighted."""
    return settings_of(place)[1]
