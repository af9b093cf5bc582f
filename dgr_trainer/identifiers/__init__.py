"""Identifiers: views of a passage as tokens, markers and prompts.

Only this package knows the rules of tokenizers: `settings` names the views, their markers and prompts; `views` turns
passages into token ids, with `markers` between the parts of a passage; `prompts` turns queries into those of prompts,
plain or in a chat template. `text_encoder` encodes a text, and keeps it from being taken for `special_tokens`; `words`
finds the words of a text in any script. `unknown_text` counts what a tokenizer does not know.

`Identifiers`, `IdentifierSettings` and `PassageSegments` are public.
"""

from dgr_trainer.identifiers.settings import VIEWS, IdentifierSettings, View
from dgr_trainer.identifiers.views import Identifiers, PassageSegments

__all__ = ["VIEWS", "IdentifierSettings", "Identifiers", "PassageSegments", "View"]
