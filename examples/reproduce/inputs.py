"""What stages read of the stages before them."""

from __future__ import annotations

from questions import Questions, read_questions
from store import Place
from students import load_identifiers, model_path

from dgr_trainer import FMIndex, Identifiers, ScoringSettings, SearchSettings
from dgr_trainer.retrieval.settings import read_settings


def questions_of(place: Place) -> Questions:
    return read_questions(str(place.store.data / place.input("corpus").config["name"]))


def tokenizer_folder(place: Place) -> str:
    """Where the student's tokenizer is: in its checkpoint, or in the folder of the stage that made it."""
    tokenizer = place.input("tokenizer")
    if "checkpoint" in tokenizer.config:
        return model_path(tokenizer.config["checkpoint"], place.store.models)
    return str(tokenizer.folder / "tokenizer")


def identifiers_of(place: Place) -> Identifiers:
    return load_identifiers(tokenizer_folder(place))


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
