"""Bit vectors that count: how many ones stand before a position, in one cache line and two population counts.

A block is eight 64-bit words, one cache line: a header and 448 bits. The header holds the number of ones before the
block (37 bits) and, relative to it, the number before the block's third, fifth and seventh word of bits (9 bits each).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

logger = logging.getLogger(__name__)

BLOCK_BITS = 448
BLOCK_WORDS = 8
COUNT_BITS = 37
MAX_BITS = 1 << COUNT_BITS

_SOURCES = sha256(b"".join(file.read_bytes() for file in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()[:12]


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a kernel with numba on its first call; it runs without the interpreter's lock and is kept on disk.

    The compiled code is kept beside the source, or in the user's cache folder where the installation is read-only, or
    in `NUMBA_CACHE_DIR`. Where no folder can be written it is compiled anew in each process.
    """
    # numba looks only at the file of the kernel itself to see that kept code is old, not at the kernels it calls.
    function.__qualname__ += f"_{_SOURCES}"
    try:
        return njit(cache=True, nogil=True)(function)
    except RuntimeError as error:
        logger.info("Compiled code of %s is not kept on disk: %s", function.__name__, error)
        return njit(nogil=True)(function)


def _popcount(typing_context: Any, word: Any) -> tuple[Any, Any]:
    """Number of ones in a 64-bit word: one machine instruction."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.uint64), generate


popcount: Any = intrinsic(_popcount)


def _prefetch(typing_context: Any, blocks: Any, index: Any) -> tuple[Any, Any]:
    """Ask for an element of an array to be brought near; one machine instruction, which waits for nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        byte = ir.IntType(8).as_pointer()
        integer = ir.IntType(32)
        hint = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(ir.VoidType(), [byte, integer, integer, integer]),
            "llvm.prefetch.p0i8" if "*" in str(byte) else "llvm.prefetch.p0",
        )
        address = builder.bitcast(builder.gep(array.data, [arguments[1]]), byte)
        builder.call(hint, [address, integer(0), integer(3), integer(1)])
        return context.get_dummy_value()

    return types.void(blocks, types.int64), generate


prefetch: Any = intrinsic(_prefetch)


def num_blocks(num_bits: int) -> int:
    """Number of blocks a bit vector takes; one bit more is counted, so that the rank of the end can be asked."""
    return num_bits // BLOCK_BITS + 1


@compiled
def set_bit(blocks: np.ndarray, first_block: int, position: int) -> None:
    """Set a bit to one; `finish_ranks` has to be called after the last."""
    block = position // BLOCK_BITS
    offset = position - block * BLOCK_BITS
    word = (first_block + block) * BLOCK_WORDS + 1 + (offset >> 6)
    blocks[word] |= np.uint64(1) << np.uint64(offset & 63)


@compiled
def finish_ranks(blocks: np.ndarray, first_block: int, num_bits: int) -> int:
    """Write the headers of a bit vector whose bits are set; return its number of ones."""
    before = 0
    for block in range(first_block, first_block + num_bits // BLOCK_BITS + 1):
        start = block * BLOCK_WORDS
        header = np.uint64(before)
        inside = 0
        for word in range(7):
            if word == 2 or word == 4 or word == 6:
                header |= np.uint64(inside) << np.uint64(COUNT_BITS + 9 * (word // 2 - 1))
            inside += popcount(blocks[start + 1 + word])
        blocks[start] = header
        before += inside
    return before


@compiled
def fetch(blocks: np.ndarray, first_block: int, position: int) -> None:
    """Bring near what `rank_and_bit` will need."""
    prefetch(blocks, (np.int64(first_block) + np.int64(position) // BLOCK_BITS) * BLOCK_WORDS)


@compiled
def rank_and_bit(blocks: np.ndarray, first_block: int, position: int) -> tuple[int, int]:
    """Number of ones before `position`, and the bit at `position` (0 when it is the end)."""
    block = np.uint64(position) // np.uint64(BLOCK_BITS)
    offset = np.uint64(position) - block * np.uint64(BLOCK_BITS)
    start = (np.uint64(first_block) + block) * np.uint64(BLOCK_WORDS)
    word = offset >> np.uint64(6)
    header = blocks[start]
    ones: Any = np.int64(header & np.uint64(MAX_BITS - 1))
    # The shift by 9 more puts a zero in front of the three relative counts: nothing stands before the first word.
    relative = (header >> np.uint64(COUNT_BITS)) << np.uint64(9)
    ones += np.int64((relative >> (np.uint64(9) * (word >> np.uint64(1)))) & np.uint64(511))
    ones += np.int64(word & np.uint64(1)) * popcount(blocks[start + word])
    bits = blocks[start + word + np.uint64(1)]
    shift = offset & np.uint64(63)
    ones += popcount(bits & ((np.uint64(1) << shift) - np.uint64(1)))
    bit: Any = np.int64((bits >> shift) & np.uint64(1))
    return ones, bit
