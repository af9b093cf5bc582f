"""Runs: for each query an ordered list of passages with their scores, as a teacher or a search gives it."""
