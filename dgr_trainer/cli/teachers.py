"""Options of the teachers, and the teachers that they make."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from dgr_trainer.errors import DGRValueError

# Rank only what is given to them.
RERANKERS = ("cross-encoder", "seq2seq", "causal-lm")
# Need a model.
MODELS = (*RERANKERS, "bi-encoder")

# How the help of an option begins: the teachers that it belongs to.
_OF_RERANKERS = ", ".join(RERANKERS)
_OF_MODELS = ", ".join(MODELS)


@dataclass
class TeacherOptions:
    """Options of the teachers, by the names of their arguments; what is not given keeps the library's default."""

    _argument_group_name = "teachers"

    k1: float | None = field(
        default=None, metadata={"help": "bm25, pyserini: saturation of a repeated term. (default: 0.9)"}
    )
    b: float | None = field(
        default=None, metadata={"help": "bm25, pyserini: how much long passages are held back. (default: 0.4)"}
    )
    fields: list[str] | None = field(
        default=None,
        metadata={
            "help": "bm25, pyserini: what is searched of a passage. (default: title text)",
            "choices": ["title", "text", "pseudo_queries"],
        },
    )
    stemmer: str | None = field(
        default=None,
        metadata={"help": "bm25: porter, a Snowball algorithm such as german, or none. (default: porter)"},
    )
    lucene_index: str | None = field(
        default=None, metadata={"metavar": "DIR", "help": "pyserini: folder of the Lucene index, kept between calls."}
    )
    prebuilt: str | None = field(
        default=None,
        metadata={
            "metavar": "NAME",
            "help": "pyserini: a prebuilt index, which Anserini downloads, in place of --corpus.",
        },
    )
    similarity: str | None = field(
        default=None,
        metadata={
            "help": "pyserini: BM25, query likelihood, or impacts of an index. (default: bm25)",
            "choices": ["bm25", "qld", "impact"],
        },
    )
    mu: float | None = field(default=None, metadata={"help": "pyserini: smoothing of qld. (default: 1000.0)"})
    encoder: str | None = field(
        default=None, metadata={"metavar": "NAME", "help": "pyserini: Anserini's encoder of queries for impact."}
    )
    field_weights: list[str] | None = field(
        default=None,
        metadata={"metavar": "FIELD=WEIGHT", "help": "pyserini: search fields by themselves, such as title=2 text=1."},
    )
    hits: int | None = field(
        default=None, metadata={"help": "pyserini: how deep Lucene looks for candidates. (default: 1000)"}
    )
    rm3: bool = field(default=False, metadata={"help": "pyserini: expand queries by RM3."})
    threads: int | None = field(default=None, metadata={"help": "pyserini: threads of Java. (default: 4)"})
    memory: str | None = field(default=None, metadata={"help": "pyserini: heap of Java. (default: 2g)"})
    model: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": f"{_OF_MODELS}: the model, a folder or a name on the hub; has to be given.",
        },
    )
    query_template: str | None = field(
        default=None, metadata={"help": "cross-encoder: first segment of the input. (default: '{query}')"}
    )
    passage_template: str | None = field(
        default=None,
        metadata={
            "help": "cross-encoder, bi-encoder: passage text of {passage}, {title}, {text}. (default: '{passage}')"
        },
    )
    missing_title: str | None = field(
        default=None, metadata={"help": "cross-encoder: what {title} becomes where there is none."}
    )
    passage_first: bool = field(default=False, metadata={"help": "cross-encoder: the passage is the first segment."})
    template: str | None = field(default=None, metadata={"help": "cross-encoder: the only segment, instead of two."})
    prompt: str | None = field(
        default=None,
        metadata={
            "help": "seq2seq, causal-lm: what the model is asked; by default monot5 and qwen3-reranker.",
            "choices": ["monot5", "qwen3-reranker", "bge-reranker-gemma"],
        },
    )
    query_prefix: str | None = field(
        default=None, metadata={"help": "bi-encoder: what stands before a query, such as 'query: '."}
    )
    passage_prefix: str | None = field(
        default=None, metadata={"help": "bi-encoder: what stands before a passage, such as 'passage: '."}
    )
    vectors: str | None = field(
        default=None,
        metadata={"metavar": "DIR", "help": "bi-encoder: folder of the passages' vectors, kept between calls."},
    )
    faiss: str | None = field(
        default=None,
        metadata={"metavar": "FACTORY", "help": "bi-encoder: search by an index of faiss, such as HNSW32."},
    )
    max_length: int | None = field(default=None, metadata={"help": f"{_OF_MODELS}: tokens of an input."})
    dtype: str | None = field(
        default=None,
        metadata={
            "help": f"{_OF_MODELS}: precision of the model. (default: float32)",
            "choices": ["float32", "bfloat16", "float16"],
        },
    )
    batch_tokens: int | None = field(
        default=None,
        metadata={"help": f"{_OF_RERANKERS}: tokens at once, padding included; by default 2048 on a CPU, else 16384."},
    )
    batch_size: int | None = field(default=None, metadata={"help": "bi-encoder: texts at once. (default: 32)"})
    compile: bool = field(default=False, metadata={"help": f"{_OF_RERANKERS}: compile the model."})
    device: str | None = field(
        default=None,
        metadata={"help": f"{_OF_MODELS}: such as cuda:1; by default a GPU if there is one."},
    )
    cache: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": f"{_OF_RERANKERS}: folder of finished scores, from which the same call goes on after a stop.",
        },
    )

    def given(self, teacher: str) -> dict[str, Any]:
        """Arguments for a teacher. Raises a `ValueError` if there are options of others."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        values = {name: value for name, value in values.items() if value not in (None, False)}
        for one in fields(self):
            of = str(one.metadata["help"]).split(":")[0].split(", ")
            if one.name in values and teacher not in of:
                raise DGRValueError(
                    f"--{one.name} is an option of {' and '.join(of)}, not of {teacher}. Leave it out."
                )
        return values


def make_teacher(name: str, corpus: Any, settings: dict[str, Any]) -> Any:
    """Make a teacher of its name and the settings that were given."""
    if name == "bm25":
        from dgr_trainer.teachers.bm25 import BM25Teacher

        if settings.get("stemmer") == "none":
            settings["stemmer"] = None
        return BM25Teacher(corpus, **settings)
    if name == "pyserini":
        from dgr_trainer.teachers.lucene.pyserini import RM3, PyseriniTeacher

        settings["rm3"] = RM3() if settings.get("rm3") else None
        if "field_weights" in settings:
            settings["field_weights"] = _weights(settings["field_weights"])
        return PyseriniTeacher(corpus, settings.pop("lucene_index", None), **settings)
    model = settings.pop("model")
    if name == "bi-encoder":
        from dgr_trainer.teachers.bi_encoder import BiEncoderTeacher

        return BiEncoderTeacher(model, corpus, **settings)
    if name == "seq2seq":
        from dgr_trainer.teachers.seq2seq import Seq2SeqTeacher

        return Seq2SeqTeacher(model, corpus, **settings)
    if name == "causal-lm":
        from dgr_trainer.teachers.causal_lm import CausalLMTeacher

        return CausalLMTeacher(model, corpus, **settings)
    from dgr_trainer.teachers.cross_encoder import CrossEncoderTeacher

    return CrossEncoderTeacher(model, corpus, **settings)


def _weights(given: list[str]) -> dict[str, float]:
    weights = {}
    for one in given:
        name, _, weight = one.partition("=")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise DGRValueError(f"--field_weights {one}: has the form FIELD=WEIGHT, such as title=2.") from None
    return weights
