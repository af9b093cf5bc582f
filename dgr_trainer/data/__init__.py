"""Corpora, queries, qrels and pseudo-queries: read from wherever they are, and checked."""
