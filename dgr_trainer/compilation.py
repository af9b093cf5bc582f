"""Compiling kernels with numba, and two machine instructions that numba does not offer."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import njit, types
from numba.core import caching, cgutils
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).parent
# Only the kernels of the index call kernels of other files.
_FILES = [Path(__file__), *sorted((_PACKAGE / "index").glob("*.py"))]
_SOURCES = sha256(b"".join(file.read_bytes() for file in _FILES)).hexdigest()[:12]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel with numba on its first call; it runs without the interpreter's lock and is cached on disk.

    All environments of a user share one cache: `dgr_trainer/kernels` in `NUMBA_CACHE_DIR`, or in the user's cache
    folder (`XDG_CACHE_HOME`, `~/.cache`). If that is not writable, or not the user's own, numba chooses a place; if
    there is none, each process compiles the kernel again.
    """
    # numba only checks whether the kernel's own file has changed, not the files of the kernels that it calls.
    function.__qualname__ += f"_{_SOURCES}"
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        logger.info("The compiled code of %s is not cached on disk: %s", function.__name__, error)
        return njit(nogil=True)(function)


class _SharedCache:
    """Where numba keeps the compiled kernels of this package: at a path that does not depend on the environment.

    What is kept there is keyed by numba's version, the kernel's sources, the Python version and the processor. numba
    runs what it finds, so the folder has to be the user's own, and closed to others. Has the methods of numba's
    `_CacheLocator`.
    """

    def __init__(self, folder: Path, function: Callable[..., Any], file: str) -> None:
        self._folder, self._py_file, self._line = folder, file, function.__code__.co_firstlineno

    def get_cache_path(self) -> str:
        return str(self._folder)

    def ensure_cache_path(self) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def get_source_stamp(self) -> str:
        return sha256(Path(self._py_file).read_bytes()).hexdigest()

    def get_disambiguator(self) -> str:
        return f"{Path(self._py_file).parent.name}-{self._line}"

    @classmethod
    def from_function(cls, py_func: Callable[..., Any], py_file: str) -> _SharedCache | None:
        if not Path(py_file).is_relative_to(_PACKAGE):
            return None
        root = getattr(numba.config, "CACHE_DIR", "") or os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = _own_folder(Path(root, "dgr_trainer", "kernels", f"{_SOURCES}-numba-{numba.__version__}"))
        return None if folder is None else cls(folder, py_func, py_file)


@cache
def _own_folder(folder: Path) -> Path | None:
    """The folder, if it is the user's own and can be written to; it is created if it does not exist."""
    try:
        folder = folder.expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix":
            found = folder.stat()
            if found.st_uid != os.getuid() or found.st_mode & 0o022:
                logger.info("Compiled code is not cached in %s: others can write to it", folder)
                return None
        tempfile.TemporaryFile(dir=folder).close()
    except (OSError, RuntimeError):  # RuntimeError: the user has no home folder.
        return None
    return folder


# numba asks the classes in this list, in turn. It offers no other way that leaves the kernels of other packages alone.
_locators: Any = getattr(getattr(caching, "CacheImpl", None), "_locator_classes", None)
if _locators is not None:
    _locators.insert(0, _SharedCache)


def _popcount(typing_context: Any, word: Any) -> tuple[Any, Any]:
    """Number of ones in a 64-bit word: one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


def _prefetch(typing_context: Any, blocks: Any, index: Any) -> tuple[Any, Any]:
    """Start loading an element of an array into the cache: one machine instruction, which does not wait."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8).as_pointer()
        integer = ir.IntType(32)
        insert: Any = cgutils.get_or_insert_function
        hint = insert(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer]),
            "llvm.prefetch.p0i8" if "*" in str(byte) else "llvm.prefetch.p0",
        )
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
        builder.call(hint, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(blocks, types.int64), generate


prefetch: Any = intrinsic(_prefetch)
