"""Formats of published data sets, one module for each family.

A module has a function that recognises a file and others that yield its passages, queries or judgements. The tuples
`FORMATS` in `passage_readers`, `query_readers` and `judgement_readers` list them.
"""
