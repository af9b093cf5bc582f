"""Everything that asks the student for a probability.

A student is an encoder-decoder or a decoder-only model: `students` has the protocol and the one place that chooses
between `encoder_decoder` and `causal`. Nothing else asks of which kind a model is.

Training: `packing` packs the identifiers of a batch into decoder rows, each with a tree of `prefix_trees`;
`causal_rows` and `causal_masks` put them behind their prompts for decoder-only models. `token_scores` scores the rows
with one `forward_pass`, whose hooks are in `decoder_rows`. Its results are `log_probabilities` of the identifiers'
tokens. `probing` finds out by trying how a model can be scored.

Search: `prompt_check` checks the prompts, `generation_mode` prepares the model for decoding, `encoder_decoder_steps`
and `causal_steps` run it step by step in one of the `decoding_ways`, with the names of `forward_arguments`;
`likelihoods.score_identifiers` scores further identifiers.

Both use `model_facts` (start token, embeddings, what the decoder supports), `sharding` (models whose parameters are
spread over processes) and `weights` (alignment in memory, a hash).

Nothing here is public.
"""
