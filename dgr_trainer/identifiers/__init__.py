"""Identifiers: views of a passage as tokens, markers and prompts.

Only this package knows the rules of tokenizers: `settings` names the views, their markers and prompts; `views` turns
passages and queries into token ids, with `special_tokens`, which keeps text from being taken for them. `words` finds
the words of a text in any script, and `unknown_text` counts what a tokenizer does not know.

`Identifiers`, `IdentifierSettings` and `PassageSegments` are public.
"""

from dgr_trainer.identifiers.settings import VIEWS, IdentifierSettings, View
from dgr_trainer.identifiers.views import Identifiers, PassageSegments

__all__ = ["VIEWS", "IdentifierSettings", "Identifiers", "PassageSegments", "View"]
