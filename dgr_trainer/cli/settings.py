"""Options that several subcommands share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from dgr_trainer.cli.derive import LibraryOptions, Setting, derived, settings_of
from dgr_trainer.identifiers import VIEWS, IdentifierSettings
from dgr_trainer.retrieval.settings import SearchSettings
from dgr_trainer.student.dtypes import DTYPES

AS_SAVED = "as saved, initially {}"
"""States the default of a setting that is saved with a retriever."""


def _prompts() -> list[Setting]:
    defaults = IdentifierSettings().prompts
    return [Setting(f"{view}_prompt", view, str, defaults[view], f"Prompt of the view {view}.") for view in VIEWS]


@derived([*settings_of(IdentifierSettings, leave_out=("prompts",)), *_prompts()])
class IdentifierOptions(LibraryOptions):
    """Options of `IdentifierSettings`."""

    _argument_group_name = "identifiers"

    def given(self) -> dict[str, Any]:
        """Arguments of `IdentifierSettings` for the options that were given."""
        arguments = super().given()
        prompts = {view: arguments.pop(view) for view in VIEWS if view in arguments}
        if "views" in arguments:
            arguments["views"] = tuple(arguments["views"])
        return arguments | ({"prompts": prompts} if prompts else {})


@derived(settings_of(SearchSettings), stated=AS_SAVED)
class SearchOptions(LibraryOptions):
    """Options of `SearchSettings`; those that are not given are as saved with the retriever."""

    _argument_group_name = "search (saved with the retriever)"

    settings: str | None = field(
        default=None,
        metadata={"metavar": "FILE", "help": "Settings that `dgr tune` wrote, in place of the saved ones."},
    )


@dataclass
class DeviceOptions:
    """Where a model runs."""

    _argument_group_name = "device"

    device: str | None = field(
        default=None, metadata={"help": "Such as cpu or cuda:1; by default a GPU if there is one."}
    )
    dtype: str = field(default=DTYPES[0], metadata={"help": "Precision of the model.", "choices": list(DTYPES)})
