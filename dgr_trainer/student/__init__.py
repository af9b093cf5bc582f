"""Everything that asks the student for a probability.

Training: `packing` packs the identifiers of a batch into decoder rows, each with a tree of `prefix_trees`;
`likelihoods` scores the rows with one `forward_pass`, whose hooks are in `decoder_rows`. Its results are
`log_probabilities` of the identifiers' tokens.

Search: `generation_mode` prepares the model for decoding; `likelihoods.score_identifiers` scores further identifiers.

Both use `model_facts` (start token, embeddings, what the decoder supports), `sharding` (models whose parameters are
spread over processes) and `weights` (alignment in memory, a hash).

Nothing here is public.
"""
