"""Counts where the host would wait for a GPU, on any device.

On a CPU every tensor stands for one on a GPU: what reads a value of a tensor on the host, or has a shape that depends
on values, would wait there until the GPU has done all that it was given.
"""

import os
import sys
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_ops = torch.ops.aten
_ALWAYS = {
    _ops._local_scalar_dense.default,  # item(), int(), float(), bool()
    _ops.equal.default,
    _ops.nonzero.default,
    _ops.nonzero_numpy.default,
    _ops.masked_select.default,
    _ops._unique2.default,
    _ops.unique_dim.default,
    _ops.unique_consecutive.default,
    _ops.bincount.default,
}
_INDEXED = {_ops.index.Tensor, _ops.index_put.default, _ops.index_put_.default, _ops._index_put_impl_.default}
# These read a tensor on the host without an operation that a mode sees. `numpy()` refuses a tensor of a GPU.
_METHODS = ("cpu", "tolist")


class HostWaits(TorchDispatchMode):
    """A list of the places at which the host would have waited."""

    def __init__(self):
        super().__init__()
        self.places = []
        self._inside = False

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if not self._inside and self._waits(func, args, kwargs):
            self._found(str(func))
        return func(*args, **kwargs)

    @staticmethod
    def _waits(func, args, kwargs):
        if func in _ALWAYS:
            return True
        if func in _INDEXED:
            return any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])
        if func is _ops.repeat_interleave.Tensor:
            return kwargs.get("output_size") is None
        if func is _ops._to_copy.default:
            return args[0].device.type != "cpu" and torch.device(kwargs.get("device") or args[0].device).type == "cpu"
        return False

    def _found(self, what):
        """Note the innermost line that is not of torch, or of this file."""
        frame = sys._getframe()
        while f"{os.sep}torch{os.sep}" in frame.f_code.co_filename or frame.f_code.co_filename == __file__:
            frame = frame.f_back
        self.places.append(f"{what} at {frame.f_code.co_filename}:{frame.f_lineno}")

    def own(self):
        """The places without those at which transformers looks for padding in the masks that its models are given."""
        return [place for place in self.places if f"transformers{os.sep}masking_utils.py" not in place]

    @contextmanager
    def watching(self):
        """Within the context, also count methods that no mode sees."""

        def counted(name, method):
            def run(tensor, *args, **kwargs):
                outermost = not self._inside
                if outermost:
                    self._found(name)
                self._inside = True
                try:
                    return method(tensor, *args, **kwargs)
                finally:
                    if outermost:
                        self._inside = False

            return run

        with ExitStack() as stack:
            for name in _METHODS:
                method = counted(name, getattr(torch.Tensor, name))
                stack.enter_context(mock.patch.object(torch.Tensor, name, method))
            stack.enter_context(self)
            yield self
