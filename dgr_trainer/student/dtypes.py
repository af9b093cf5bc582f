"""Precisions in which models are loaded."""

DTYPES = ("float32", "bfloat16", "float16")
"""Names of torch's dtypes; the first is the default."""
