"""Hashes of what a model computes with besides its weights: its tokenizer, and the configuration of its modules."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_NOT_COMPUTED_WITH = ("architectures", "dtype", "torch_dtype", "transformers_version")


def tokenizer_digest(tokenizer: Any) -> str:
    """A hash of how a tokenizer reads texts; the length at which it cuts them is not part of it.

    Args:
        tokenizer (`Any`): A tokenizer of transformers, tokenizers or sentence-transformers.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None) or tokenizer
    if hasattr(backend, "to_str"):
        # The backend also stores how the last text was truncated and padded.
        parts = json.loads(backend.to_str())
        return _hash(json.dumps({name: part for name, part in parts.items() if name not in ("truncation", "padding")}))
    vocabulary = tokenizer.get_vocab()
    return _hash(json.dumps(sorted(vocabulary.items()) if isinstance(vocabulary, Mapping) else list(vocabulary)))


def modules_digest(model: Any) -> str:
    """A hash of the kinds of the modules of a sentence-transformers model, and of their configuration.

    Args:
        model ([`~sentence_transformers.SentenceTransformer`]): The model.

    Returns:
        `str`: 32 hexadecimal digits.
    """
    from transformers import PreTrainedModel

    modules = []
    for name, module in model.named_modules():
        if isinstance(module, PreTrainedModel):
            # Without defaults: those that a later version adds change nothing.
            config = module.config.to_diff_dict()
            config = {key: value for key, value in config.items() if key not in _NOT_COMPUTED_WITH}
        elif hasattr(module, "get_config_dict"):
            config = module.get_config_dict()
        elif name and "." not in name:
            config = {}  # A module of another library has no configuration that can be read, but a kind.
        else:
            continue
        modules.append([name, type(module).__name__, _with_string_keys(config)])
    return _hash(json.dumps(modules, sort_keys=True, default=str))


def _with_string_keys(value: Any) -> Any:
    """Mappings such as the routes of a router have tuples as keys, which JSON does not allow."""
    if isinstance(value, Mapping):
        return {str(key): _with_string_keys(inner) for key, inner in value.items()}
    return value


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
