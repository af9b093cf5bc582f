"""Retrieval: decoding bound to the index, identifiers and what they are worth, passages and their scores."""
