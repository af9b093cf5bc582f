"""Data sets as their owners publish them, one module a family.

`read_queries`, `read_qrels`, `Corpus.read` and `read_pseudo_queries` recognise these files; the modules hold what has
no place there.
"""
