"""The FM-index over a tokenised corpus: counts, extends and locates token sequences.

Building: `token_texts` concatenates tokenised passages into one text per segment; `array_construction` sorts its
suffixes (`suffix_sort`, or `rotation_sort` if it repeats itself a lot) and builds the `index_arrays` of the segment,
with a `wavelet_matrix` of `bit_vector`s. `resumable_build` does so on disk.

Querying: `FMIndex` takes its `query_methods` from a mixin; `query_dispatch` checks arguments and runs the compiled
`range_kernels` and `interleaved_walks` on each `segment`, with `kernel_threads`.

Searching a part: `passage_subset` makes the index of some passages; an `edited_index` answers as if some passages had
other texts, which `small_texts` index.

Changing and saving: `segment_changes` adds, removes and merges segments; `storage` writes them as `array_folders`, and
`verified_files` remembers which checksums were verified; `corpus_sync` changes an index together with its corpus.

`FMIndex` and `save_changed` are public.
"""

from dgr_trainer.index.corpus_sync import save_changed
from dgr_trainer.index.fm_index import FMIndex

__all__ = ["FMIndex", "save_changed"]
