"""The adapters of a saved retriever: all of them, their names, and which are active.

The folder itself holds one adapter, as peft expects it; further ones are in `adapters/`, each in a folder of its name.
peft alone would write an adapter that is not named `default` where nothing looks for it, forget which is active, and
write the folders of further adapters among those of the retriever.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedModel

from dgr_trainer.errors import DGRValueError, input_errors
from dgr_trainer.student.generation_mode import generation_mode
from dgr_trainer.student.model_facts import embedding_rows, innermost_module, underlying_model
from dgr_trainer.student.sharding import is_sharded
from dgr_trainer.student.students import student_of

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_MORE_ADAPTERS = "adapters"
_EXAMPLE_TOKENS = 16
# Largest differences of log-probabilities that rounding explains, in single precision and below.
_EXACT, _ROUNDED = 0.01, 0.5
_DEFAULT = "default"  # The name of which peft makes no folder.


def describe_adapters(model: Any) -> dict[str, Any] | None:
    """Describe the adapters of a model, and refuse those that could not be loaded again.

    Adapters that do not know their base model get the name that the model knows.

    Args:
        model ([`~peft.PeftModel`] or [`~transformers.PreTrainedModel`]): The model.

    Returns:
        `dict[str, Any]`: the description that `load_adapters` takes, in JSON types; `None` if it is no `PeftModel`.

    Raises:
        ValueError: if the base model is unknown, a name cannot be that of a folder, or the layers differ in which
            adapters are active, merged or enabled.
    """
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        if hasattr(model, "peft_config") and not isinstance(model, PreTrainedModel):
            raise DGRValueError(
                f"peft cannot save a {type(model).__name__}, whose adapters are of several kinds. Merge them with "
                "model.merge_and_unload() before saving."
            )
        return None
    names = list(model.peft_config)
    known = [config.base_model_name_or_path for config in model.peft_config.values()]
    base_name = next(filter(None, [*known, getattr(underlying_model(model), "name_or_path", None)]), None)
    for name, config in model.peft_config.items():
        config.base_model_name_or_path = config.base_model_name_or_path or base_name
        if not config.base_model_name_or_path:
            raise DGRValueError(
                f"The configuration of adapter {name!r} does not name its base model, so it could not be loaded "
                "again. Save the base model and set base_model_name_or_path in the adapter's configuration, or merge "
                "the adapter with model.merge_and_unload()."
            )
        if Path(name).name != name:
            raise DGRValueError(
                f"The adapter {name!r} cannot be saved: its name would be the name of a folder. Add it under a name "
                "without slashes."
            )
    active, enabled = _state(model)
    root = next((name for name in [*active, _DEFAULT] if name in names), names[0])
    return {
        "root": root,
        "others": [name for name in names if name != root],
        "active": active,
        "enabled": enabled,
        "embedding_rows": embedding_rows(model),
        "example": None if is_sharded(model) else _example(model),
    }


def save_adapters(model: Any, folder: Path, description: Mapping[str, Any]) -> None:
    """Write all adapters of a model.

    Args:
        model ([`~peft.PeftModel`]): The model.
        folder (`pathlib.Path`): The folder of the retriever.
        description (`Mapping[str, Any]`): What `describe_adapters` returned.

    Raises:
        ValueError: if peft could not read the configuration of an adapter again.
    """
    from peft import PeftConfig

    more = folder / _MORE_ADAPTERS
    for name in [description["root"], *description["others"]]:
        target = folder if name == description["root"] else more / name
        written = more / ".written"
        has_new_rows = _has_new_rows(model, name)
        model.save_pretrained(
            str(written), selected_adapters=[name], save_embedding_layers=True if has_new_rows else "auto"
        )
        target.mkdir(parents=True, exist_ok=True)
        for file in list((written if name == _DEFAULT else written / name).iterdir()):
            file.rename(target / file.name)
        shutil.rmtree(written)
        if has_new_rows:
            _add_embeddings(model, target / _WEIGHTS)
        with input_errors(f"The adapter {name!r} cannot be saved: peft would not load its configuration", Exception):
            PeftConfig.from_pretrained(str(target))
    if more.is_dir() and not description["others"]:
        more.rmdir()


def load_adapters(base_model: Any, folder: Path, description: Mapping[str, Any] | None) -> torch.nn.Module:
    """Load what `save_adapters` wrote.

    Args:
        base_model ([`~transformers.PreTrainedModel`]): The base model, which becomes part of the result.
        folder (`pathlib.Path`): The folder of the retriever.
        description (`Mapping[str, Any]`, *optional*): The description of the adapters; folders that have none hold one
            adapter.

    Returns:
        [`~peft.PeftModel`]: the model with all adapters, those active that were so when it was saved.

    Raises:
        ValueError: if the base model has adapters already, or weights of an adapter are missing.
    """
    from peft import PeftModel

    if getattr(base_model, "peft_config", None):
        raise DGRValueError(
            "The base model has adapters already, but those of the folder are to be loaded into it. Give the model "
            "without adapters as base_model."
        )
    if description is None:
        alone = PeftModel.from_pretrained(base_model, str(folder))
        _check_weights(alone, _DEFAULT, folder)
        return alone
    rows = description["embedding_rows"]
    if embedding_rows(base_model) < rows:
        # Tokens had been added; the adapter holds the new embeddings.
        base_model.resize_token_embeddings(rows, mean_resizing=False)
    model: Any = PeftModel.from_pretrained(base_model, str(folder), adapter_name=description["root"])
    _check_weights(model, description["root"], folder)
    for name in description["others"]:
        model.load_adapter(str(folder / _MORE_ADAPTERS / name), adapter_name=name)
        _check_weights(model, name, folder / _MORE_ADAPTERS / name)
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    active = description["active"]
    if len(active) == 1:
        model.set_adapter(active[0])
    elif active:
        model.base_model.set_adapter(active)
    if not description["enabled"]:
        model.base_model.disable_adapter_layers()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trainable)
    if description.get("example") is not None:
        _compare(model, description["example"], folder)
    loaded: torch.nn.Module = model
    return loaded


def _example(model: Any) -> list[float]:
    """Some log-probabilities of a model, by which it is recognised."""
    with generation_mode(model) as plain:
        log_p = student_of(plain).few_logits(plain).float().log_softmax(-1)
    return [round(value, 4) for value in log_p[0, :, :_EXAMPLE_TOKENS].flatten().tolist()]


def _compare(model: Any, saved: Sequence[float], folder: Path) -> None:
    """Warn if a model gives other log-probabilities than when it was saved: its base model is not the same."""
    differences = [abs(now - before) for now, before in zip(_example(model), saved, strict=True)]
    exact = next(model.parameters()).dtype in (torch.float32, torch.float64)
    if not max(differences) <= (_EXACT if exact else _ROUNDED):
        logger.warning(
            "The model in %s gives other log-probabilities than when it was saved (up to %.2g apart). Its folder "
            "holds the adapters only: the base model has other weights now, or it was trained and not saved, or an "
            "adapter was scaled. Give the same one as base_model, or merge the adapters before saving.",
            folder,
            max(differences),
        )


def _state(model: Any) -> tuple[list[str], bool]:
    """The adapters that act, and whether they are enabled; the same in all layers, or the state is refused."""
    from peft import get_layer_status

    with input_errors("The adapters cannot be saved", TypeError, ValueError):
        layers = get_layer_status(model)
    # What was merged into the weights of a layer acts there, whatever is active.
    acting = [set(layer.merged_adapters or layer.active_adapters) & set(layer.available_adapters) for layer in layers]
    names = list(dict.fromkeys(name for layer in layers for name in (*layer.active_adapters, *layer.merged_adapters)))
    active = [name for name in names if any(name in of_layer for of_layer in acting)]
    same = all(
        of_layer == set(active) & set(layer.available_adapters) for of_layer, layer in zip(acting, layers, strict=True)
    )
    if not same or len({layer.enabled for layer in layers}) > 1:
        raise DGRValueError(
            f"The layers of the model differ in which of the adapters {', '.join(model.peft_config)} act, which "
            "cannot be saved. Call model.unmerge_adapter() if adapters are merged, and model.set_adapter(...)."
        )
    return active, all(layer.enabled for layer in layers)


def _has_new_rows(model: Any, name: str) -> bool:
    """Whether the model has more embeddings than its base model: tokens were added, and the adapter has to hold them.

    peft finds out by itself only if it can ask the hub.
    """
    config = model.peft_config[name]
    try:
        base = AutoConfig.from_pretrained(config.base_model_name_or_path, revision=config.revision)
    except (OSError, ValueError):
        return False
    vocab_size = getattr(base.get_text_config(), "vocab_size", None)
    return vocab_size is not None and vocab_size < embedding_rows(model)


def _add_embeddings(model: Any, file: Path) -> None:
    """Add embeddings and output projection to the weights of an adapter: peft forgets them if others are adapted."""
    weights = load_file(file)
    base = underlying_model(model)
    for module in (base.get_input_embeddings(), base.get_output_embeddings()):
        weight = innermost_module(module).weight
        names = [name for name, other in model.named_parameters(remove_duplicate=False) if other is weight]
        if not weights.keys() & set(names):
            weights[names[0]] = weight.detach().clone()
    save_file(weights, file, metadata={"format": "pt"})


def _check_weights(model: Any, name: str, folder: Path) -> None:
    """Refuse an adapter of which the file lacks weights: peft would leave them at random."""
    from peft import get_peft_model_state_dict

    file = folder / _WEIGHTS
    if not file.is_file():
        return
    with safe_open(file, framework="pt") as weights:
        present = set(weights.keys())
    expected: Iterable[str] = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    missing = sorted(set(expected) - present)
    if missing:
        raise DGRValueError(
            f"{file} lacks {len(missing)} weights of the adapter {name!r}, such as {missing[0]}. Copy the whole file, "
            "or save the retriever again."
        )
