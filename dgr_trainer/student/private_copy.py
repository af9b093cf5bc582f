"""Private copies of a model, which share its weights, so that nothing that others can see changes during a call.

Scoring and search put hooks on modules and switch them to evaluation mode. A model may be used by several threads at
once: two requests of a server, or a search beside training. So they work on a copy of the tree of modules: new module
objects with the same parameters and buffers. A copy takes a few milliseconds and no memory for weights. What is set on
it lasts as long as something refers to it: activation checkpointing, which runs modules again in the backward pass,
finds them as they were in the forward pass.

A model wrapped for several processes, sharded or compiled has to be called as it is. It is changed for the time of the
call, and a lock lets one thread do so at a time.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from accelerate.utils import extract_model_from_parallel, has_compiled_regions, is_compiled_module
from torch import nn

from dgr_trainer.student.sharding import is_sharded

M = TypeVar("M", bound=nn.Module)

_PRIVATE = "_dgr_private_copy"
_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def private_model(model: M, changed: Collection[nn.Module] | None = None) -> Iterator[M]:
    """Give a model that can be changed without others seeing it, or wait until no other thread changes this one.

    Args:
        model (`nn.Module`): A model, wrapped or not.
        changed (`Collection[nn.Module]`, *optional*):
            The modules that will get hooks. By default none, but the attributes of all modules may be changed.

    Yields:
        `nn.Module`: a private copy that shares the weights, and all modules that will not be changed. If the model
        cannot be copied, the model itself; others who want to copy or change it have to wait until the context closes.
    """
    if changed is None:
        is_private = all(_PRIVATE in vars(module) for module in model.modules())
    else:
        is_private = all(vars(module).get(_PRIVATE) == "hooks" for module in changed)
    if is_private:
        yield model
        return
    with _lock_of(model):
        compiled = is_compiled_module(model) or has_compiled_regions(model)
        wrapped = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=True) is not model
        copy = None if compiled or wrapped or is_sharded(model) else copy_if_possible(model, changed)
        if copy is None:
            yield model
            return
    yield copy


def copy_if_possible(module: M, changed: Collection[nn.Module] | None = None) -> M | None:
    """The same as `module_copy`, but `None` where that raises a `TypeError`."""
    try:
        return module_copy(module, changed)
    except TypeError:
        return None


def module_copy(module: M, changed: Collection[nn.Module] | None = None) -> M:
    """Copy a tree of modules; the copies share parameters and buffers with the originals, and have the same hooks.

    Attributes that are methods of a copied module become methods of its copy.

    Args:
        module (`nn.Module`): The root. If it is sharded, the copies also see parameters that are gathered later.
        changed (`Collection[nn.Module]`, *optional*):
            The modules to copy, besides those that contain them; hooks may be added to the copies. By default all
            modules, whose copies have the same dictionaries of hooks as the originals: hooks must not be added.

    Returns:
        `nn.Module`: the copy of the root.

    Raises:
        TypeError: if the `forward` of a copied module was replaced by a function that may belong to the original.
    """
    chosen = None if changed is None else {id(other) for other in changed}
    own = ["_modules"]
    if not is_sharded(module):
        own += ["_parameters", "_buffers"]
    if changed is not None:
        own += _HOOKS
    copies: dict[int, nn.Module] = {}
    visited: set[int] = set()

    def visit(original: nn.Module, *, root: bool) -> None:
        if id(original) in visited:
            return
        visited.add(id(original))
        children = [child for child in original._modules.values() if child is not None]
        for child in children:
            visit(child, root=False)
        if root or chosen is None or id(original) in chosen or any(id(child) in copies for child in children):
            copy = copies[id(original)] = object.__new__(type(original))
            vars(copy).update(vars(original))
            for name in own:
                vars(copy)[name] = vars(original)[name].copy()
            vars(copy)["_compiled_call_impl"] = None  # It would call the original.
            vars(copy)[_PRIVATE] = "attributes" if changed is None else "hooks"

    visit(module, root=True)
    for copy in copies.values():
        for name, child in copy._modules.items():
            copy._modules[name] = copies.get(id(child), child)
        for name, value in list(vars(copy).items()):
            if isinstance(value, (MethodType, functools.partial)):
                vars(copy)[name] = _rebound(value, copies)
            elif name == "forward":
                raise TypeError(f"{type(copy).__name__}.forward was replaced by {value!r}.")
    return cast(M, copies[id(module)])


def _rebound(function: Any, copies: dict[int, nn.Module]) -> Any:
    """A method or partial function with the copies of modules in place of the modules."""
    if isinstance(function, MethodType):
        return MethodType(function.__func__, copies.get(id(function.__self__), function.__self__))
    if isinstance(function, functools.partial):
        arguments = [copies.get(id(value), value) for value in function.args]
        keywords = {name: copies.get(id(value), value) for name, value in function.keywords.items()}
        rebound = functools.partial(_rebound(function.func, copies), *arguments, **keywords)
        return functools.update_wrapper(rebound, function) if hasattr(function, "__wrapped__") else rebound
    return function


def _lock_of(model: nn.Module) -> threading.RLock:
    """The lock of the model inside wrappers."""
    inner = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    with _locks_guard:
        return _locks.setdefault(inner, threading.RLock())
