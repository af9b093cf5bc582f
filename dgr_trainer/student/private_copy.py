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
from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

from accelerate.utils import extract_model_from_parallel, has_compiled_regions, is_compiled_module
from torch import nn

from dgr_trainer.student.sharding import is_sharded

M = TypeVar("M", bound=nn.Module)

_PRIVATE = "_dgr_private_copy"
_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_locks_guard = threading.Lock()


@contextmanager
def private_model(model: M) -> Iterator[M]:
    """Give a model that no other thread sees, or wait until no other thread uses this one.

    Args:
        model (`nn.Module`): A model, wrapped or not.

    Yields:
        `nn.Module`: a private copy that shares the weights. If the model cannot be copied, the model itself; others
        who ask for a private model have to wait until the context closes.
    """
    if _PRIVATE in vars(model):
        yield model
        return
    lock = _lock_of(model)
    with lock:
        compiled = is_compiled_module(model) or has_compiled_regions(model)
        wrapped = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=True) is not model
        copy = None if compiled or wrapped or is_sharded(model) else copy_if_possible(model)
        if copy is None:
            yield model
            return
    for module in copy.modules():
        vars(module)[_PRIVATE] = True
    yield copy


def module_copy(module: M) -> M:
    """Copy a tree of modules; the copies share parameters and buffers with the originals, and have the same hooks.

    Attributes that are methods of one of the modules become methods of its copy.

    Args:
        module (`nn.Module`): The root. If it is sharded, the copies also see parameters that are gathered later.

    Returns:
        `nn.Module`: the copy of the root.

    Raises:
        TypeError: if a module has a `forward` of its own that belongs to the original in a way that is unknown.
    """
    sharded = is_sharded(module)
    copies: dict[int, nn.Module] = {}
    for original in module.modules():
        copy = copies[id(original)] = object.__new__(type(original))
        attributes = vars(copy)
        attributes.update(vars(original))
        for name, value in vars(original).items():
            # Hooks, children and so on are added to the copy alone.
            if isinstance(value, dict) and not (sharded and name in ("_parameters", "_buffers")):
                attributes[name] = value.copy()
        attributes["_compiled_call_impl"] = None  # It would call the original.
    for copy in copies.values():
        for name, child in copy._modules.items():
            copy._modules[name] = None if child is None else copies[id(child)]
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


def copy_if_possible(module: M) -> M | None:
    """The same as `module_copy`, but `None` where that raises a `TypeError`."""
    try:
        return module_copy(module)
    except TypeError:
        return None


def _lock_of(model: nn.Module) -> threading.RLock:
    """The lock of the model inside wrappers."""
    inner = extract_model_from_parallel(model, keep_fp32_wrapper=True, keep_torch_compile=False)
    inner = inner.get_base_model() if hasattr(inner, "get_base_model") else inner
    with _locks_guard:
        return _locks.setdefault(inner, threading.RLock())
