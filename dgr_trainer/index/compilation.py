"""Compiling kernels with numba, and two machine instructions that numba does not offer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

_SOURCES = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:12]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel with numba on its first call; it runs without the interpreter's lock and is cached on disk.

    The cache is beside the source, in the user's cache folder if the installation is read-only, or in
    `NUMBA_CACHE_DIR`. If no folder is writable, each process compiles the kernel again.
    """
    # numba only checks whether the kernel's own file has changed, not the files of the kernels that it calls.
    function.__qualname__ += f"_{_SOURCES}"
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        logger.info("The compiled code of %s is not cached on disk: %s", function.__name__, error)
        return njit(nogil=True)(function)


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
