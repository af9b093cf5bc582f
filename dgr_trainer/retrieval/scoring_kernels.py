"""Compiled kernels of passage scoring: find identifiers in passages and credit them greedily.

Identifiers are numbered in the order of credit: highest weight first. The pattern of an identifier in the index is a
prefix that takes no position (a separator, a marker) followed by its ids, which do. Arguments of several kernels:

- `lengths` (int64) and `weights` (float64) hold one value per identifier; lengths are those of the ids alone.
- `token_indptr` and `token_sets` (int64) hold the distinct tokens of each identifier, one set after another.
- `repetition` is `ScoringSettings.repetition`.
"""

from __future__ import annotations

import numpy as np

from dgr_trainer.compilation import compiled

_ROOT = 0
_FREE = -1


@compiled
def _slot(table_keys, code):  # type: ignore[no-untyped-def]
    """Slot that holds a (node, token) code, or would hold it, in a hash table whose size is a power of two."""
    mask = np.uint64(len(table_keys) - 1)
    mixed = np.uint64(code) * np.uint64(0x9E3779B97F4A7C15)
    slot = (mixed >> np.uint64(29)) & mask
    while table_keys[slot] != _FREE and table_keys[slot] != code:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def build_trie(indptr, tokens, vocab_size):  # type: ignore[no-untyped-def]
    """Put patterns into a trie.

    Args:
        indptr (`np.ndarray` of int64): Start of each pattern in `tokens`, and their end.
        tokens (`np.ndarray` of int64): The patterns, one after another.
        vocab_size (`int`): Upper bound of the tokens.

    Returns:
        `tuple`: `first` (int32, node of each first token or -1), the hash table of the other edges (`keys`: node times
        `vocab_size` plus token, `nodes`), `heads` (the first pattern that ends in a node or -1) and `others` (the next
        pattern that ends in the same node as a pattern, or -1).
    """
    size = 16
    while size < 4 * len(tokens):
        size *= 2
    first = np.full(vocab_size, -1, np.int32)
    keys, nodes = np.full(size, _FREE, np.int64), np.zeros(size, np.int32)
    heads = np.full(len(tokens) + 1, -1, np.int32)
    others = np.full(len(indptr) - 1, -1, np.int32)
    last_node = _ROOT
    for pattern in range(len(indptr) - 2, -1, -1):
        node = _ROOT
        for position in range(indptr[pattern], indptr[pattern + 1]):
            token = tokens[position]
            if node == _ROOT:
                if first[token] < 0:
                    last_node += 1
                    first[token] = last_node
                node = first[token]
            else:
                code = node * vocab_size + token
                slot = _slot(keys, code)
                if keys[slot] == _FREE:
                    last_node += 1
                    keys[slot] = code
                    nodes[slot] = last_node
                node = nodes[slot]
        others[pattern] = heads[node]
        heads[node] = pattern
    return first, keys, nodes, heads, others


@compiled
def _discount(token_indptr, token_sets, identifier, covered, stamp, any_covered, repetition):  # type: ignore[no-untyped-def]
    """Share of its weight that an identifier keeps, given the covered tokens."""
    if not any_covered:
        return 1.0
    new = 0
    for number in range(token_indptr[identifier], token_indptr[identifier + 1]):
        if covered[token_sets[number]] != stamp:
            new += 1
    return 1.0 - repetition + repetition * (new / (token_indptr[identifier + 1] - token_indptr[identifier]))


@compiled
def _cover(token_indptr, token_sets, identifier, covered, stamp):  # type: ignore[no-untyped-def]
    """Mark the tokens of an identifier as covered."""
    for number in range(token_indptr[identifier], token_indptr[identifier + 1]):
        covered[token_sets[number]] = stamp


@compiled
def _credit(  # type: ignore[no-untyped-def]
    codes,
    span,
    lengths,
    weights,
    token_indptr,
    token_sets,
    repetition,
    taken,
    covered,
    stamp,
    out_credited,
    out_values,
):
    """Credit identifiers to one passage, greedily.

    Args:
        codes (`np.ndarray` of int64): Occurrences as identifier times `span` plus start, ascending.
        span (`int`): Upper bound of the starts.
        lengths (`np.ndarray`): See the module.
        weights (`np.ndarray`): See the module.
        token_indptr (`np.ndarray`): See the module.
        token_sets (`np.ndarray`): See the module.
        repetition (`float`): See the module.
        taken (`np.ndarray` of int64): Equals `stamp` where a position is taken; changed.
        covered (`np.ndarray` of int64): Equals `stamp` where a token is covered; changed.
        stamp (`int`): A number of this passage only.
        out_credited (`np.ndarray` of int64): Receives the credited identifiers, in the order of credit.
        out_values (`np.ndarray` of float64): Receives what each of them adds.

    Returns:
        `int`: number of credited identifiers.
    """
    number = 0
    before = -1
    for code in codes:
        identifier = code // span
        start = code - identifier * span
        repeated = identifier == before
        value = 0.0
        if not repeated:
            value = weights[identifier] * _discount(
                token_indptr, token_sets, identifier, covered, stamp, number > 0, repetition
            )
            if value <= 0.0:
                continue
        free = True
        for position in range(start, start + lengths[identifier]):
            if taken[position] == stamp:
                free = False
                break
        if not free:
            continue
        for position in range(start, start + lengths[identifier]):
            taken[position] = stamp
        if not repeated:
            out_credited[number] = identifier
            out_values[number] = value
            number += 1
            before = identifier
            _cover(token_indptr, token_sets, identifier, covered, stamp)
    return number


@compiled
def score_occurrences(  # type: ignore[no-untyped-def]
    passages, identifiers, starts, lengths, weights, token_indptr, token_sets, vocab_size, repetition
):
    """First stage: score the passages in which identifiers were located.

    Args:
        passages (`np.ndarray` of int64): Passage of each occurrence; those of a passage are adjacent.
        identifiers (`np.ndarray` of int64): Identifier of each occurrence.
        starts (`np.ndarray` of int64): Position in the passage at which its ids start.
        lengths (`np.ndarray`): See the module.
        weights (`np.ndarray`): See the module.
        token_indptr (`np.ndarray`): See the module.
        token_sets (`np.ndarray`): See the module.
        vocab_size (`int`): Upper bound of the tokens.
        repetition (`float`): See the module.

    Returns:
        `tuple`: (passages, int64; their scores, float64).
    """
    size = len(passages)
    span = np.int64(1)
    for index in range(size):
        span = max(span, starts[index] + lengths[identifiers[index]])
    taken, covered = np.full(span, -1, np.int64), np.full(vocab_size, -1, np.int64)
    credited, values = np.empty(len(lengths), np.int64), np.empty(len(lengths), np.float64)
    distinct, scores = np.empty(size, np.int64), np.empty(size, np.float64)
    number = 0
    begin = 0
    while begin < size:
        end = begin + 1
        while end < size and passages[end] == passages[begin]:
            end += 1
        codes = np.sort(identifiers[begin:end] * span + starts[begin:end])
        count = _credit(
            codes,
            span,
            lengths,
            weights,
            token_indptr,
            token_sets,
            repetition,
            taken,
            covered,
            begin,
            credited,
            values,
        )
        distinct[number] = passages[begin]
        scores[number] = values[:count].sum()
        number += 1
        begin = end
    return distinct[:number], scores[:number]


@compiled
def score_texts(  # type: ignore[no-untyped-def]
    text_indptr,
    text,
    separator,
    first,
    keys,
    nodes,
    heads,
    others,
    prefix_lengths,
    lengths,
    weights,
    token_indptr,
    token_sets,
    unigram_weights,
    repetition,
    with_credits,
):
    """Second stage: find every identifier in the text of passages, credit them, and then the remaining tokens.

    Args:
        text_indptr (`np.ndarray` of int64): Start of each passage in `text`, and their end.
        text (`np.ndarray` of int64): Tokens of the passages, without separators.
        separator (`int`): The token between passages.
        first (`np.ndarray`): See `build_trie`.
        keys (`np.ndarray`): See `build_trie`.
        nodes (`np.ndarray`): See `build_trie`.
        heads (`np.ndarray`): See `build_trie`.
        others (`np.ndarray`): See `build_trie`.
        prefix_lengths (`np.ndarray` of int64): Length of the prefix of each pattern.
        lengths (`np.ndarray`): See the module.
        weights (`np.ndarray`): See the module.
        token_indptr (`np.ndarray`): See the module.
        token_sets (`np.ndarray`): See the module.
        unigram_weights (`np.ndarray` of float64, shape `(vocab_size,)`): Weight of each single token.
        repetition (`float`): See the module.
        with_credits (`bool`): Whether to return the credits.

    Returns:
        `tuple`: `scores` (float64, one per passage), and in the order of credit `credit_indptr` (int64), `credited`
        (int64: the identifier, or `-1 - token`) and `values` (float64); the last two are empty without `with_credits`.
    """
    num_passages = len(text_indptr) - 1
    vocab_size = len(first)
    longest = 0
    for passage in range(num_passages):
        longest = max(longest, text_indptr[passage + 1] - text_indptr[passage])
    span = longest + 2
    padded = np.empty(span, np.int64)
    taken = np.full(span, -1, np.int64)
    covered, counted = np.full(vocab_size, -1, np.int64), np.full(vocab_size, -1, np.int64)
    codes = np.empty(256, np.int64)
    credited, values = np.empty(len(lengths) + span, np.int64), np.empty(len(lengths) + span, np.float64)
    scores = np.zeros(num_passages, np.float64)
    credit_indptr = np.zeros(num_passages + 1, np.int64)
    all_credited, all_values = np.empty(256, np.int64), np.empty(256, np.float64)
    for passage in range(num_passages):
        size = text_indptr[passage + 1] - text_indptr[passage] + 2
        padded[0] = padded[size - 1] = separator
        padded[1 : size - 1] = text[text_indptr[passage] : text_indptr[passage + 1]]
        used = 0
        for start in range(size):
            node = first[padded[start]]
            position = start
            while node > 0:
                pattern = heads[node]
                while pattern >= 0:
                    if used == len(codes):
                        more = np.empty(2 * used, np.int64)
                        more[:used] = codes
                        codes = more
                    codes[used] = pattern * span + start + prefix_lengths[pattern]
                    used += 1
                    pattern = others[pattern]
                position += 1
                if position == size:
                    break
                code = node * vocab_size + padded[position]
                slot = _slot(keys, code)
                node = nodes[slot] if keys[slot] == code else 0
        codes[:used].sort()
        count = _credit(
            codes[:used],
            span,
            lengths,
            weights,
            token_indptr,
            token_sets,
            repetition,
            taken,
            covered,
            passage,
            credited,
            values,
        )
        any_covered = count > 0
        for position in range(1, size - 1):
            token = padded[position]
            if taken[position] == passage or counted[token] == passage or unigram_weights[token] <= 0.0:
                continue
            counted[token] = passage
            value = unigram_weights[token]
            if any_covered and covered[token] == passage:
                value *= 1.0 - repetition
            if value > 0.0:
                credited[count] = -1 - token
                values[count] = value
                count += 1
        scores[passage] = values[:count].sum()
        if with_credits:
            before = credit_indptr[passage]
            if before + count > len(all_values):
                more_credited = np.empty(2 * (before + count), np.int64)
                more_values = np.empty(2 * (before + count), np.float64)
                more_credited[:before], more_values[:before] = all_credited[:before], all_values[:before]
                all_credited, all_values = more_credited, more_values
            all_credited[before : before + count] = credited[:count]
            all_values[before : before + count] = values[:count]
            credit_indptr[passage + 1] = before + count
    total = credit_indptr[num_passages]
    return scores, credit_indptr, all_credited[:total], all_values[:total]
