"""The routes of the API, of the page and of the documentation."""

# No `from __future__ import annotations`: FastAPI reads the annotations of handlers, which name local classes.

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import Future
from importlib import resources
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.security import HTTPBearer
from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from starlette.exceptions import HTTPException

from dgr_trainer._version import __version__
from dgr_trainer.data.corpus import Corpus
from dgr_trainer.identifiers.settings import VIEWS, View
from dgr_trainer.retrieval.hits import Hit
from dgr_trainer.serving.answers import AnswerWriter, passage_answer
from dgr_trainer.serving.batching import BadQuery, NotReady, OutOfMemory, QueueFull, SearchFailed, SearchQueue
from dgr_trainer.serving.guard import STATIC, Guard
from dgr_trainer.serving.metrics import ServerMetrics
from dgr_trainer.serving.schemas import (
    ErrorAnswer,
    HealthAnswer,
    InfoAnswer,
    LimitsAnswer,
    PassageAnswer,
    SearchAnswer,
    SystemAnswer,
)
from dgr_trainer.serving.settings import ServeSettings
from dgr_trainer.serving.systems import Restriction

logger = logging.getLogger(__name__)

_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_FAILED = "The server failed; its log says where."
_DESCRIPTION = (
    "Finds passages by letting a model generate their identifiers, and shows the identifiers that each score is made "
    "of. An answer with an error has one field, error: a sentence."
)
_ERRORS = {
    400: "The body is not JSON, or the server is not known under this name.",
    401: "The token is missing or wrong.",
    404: "There is no such passage, or no texts are served.",
    408: "The request did not arrive in time.",
    413: "The request is too large.",
    422: "A field is missing, unknown, of the wrong type or beyond its limit.",
    503: "The server is not ready, too many queries wait, or the search took too long: `Retry-After` says when to try "
    "again.",
}


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, sentence: str, retry_after: int | None = None) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.retry_after = status, sentence, retry_after


def create_app(queues: Sequence[SearchQueue], settings: ServeSettings, metrics: ServerMetrics) -> Guard:
    """Make the ASGI application of a server.

    Args:
        queues (`Sequence[SearchQueue]`): What searches, each with its name; the first is the default.
        settings ([`ServeSettings`]): Limits of requests.
        metrics ([`ServerMetrics`]): What `/metrics` tells.

    Returns:
        [`Guard`]: the application; it starts the queues and closes them at its end.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        for queue in queues:
            queue.start()
        yield
        for queue in queues:
            await run_in_threadpool(queue.close)

    app = FastAPI(
        title="dgr serve",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(Refusal, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(Exception, _on_bug)  # The guard logs it.
    # The guard has refused requests without the token; this tells of it in the API's description.
    guarded = [] if settings.token is None else [Depends(HTTPBearer(auto_error=False))]
    _add_search(app, {queue.name: queue for queue in queues}, settings, metrics, guarded)
    _add_facts(app, queues, settings, metrics, guarded)
    _add_pages(app)
    return Guard(app, settings, metrics)


def _responses(settings: ServeSettings, *statuses: int) -> dict[int | str, dict[str, Any]]:
    shown = [400, *([] if settings.token is None else [401]), *statuses]
    return {status: {"model": ErrorAnswer, "description": _ERRORS[status]} for status in shown}


def _add_search(
    app: FastAPI,
    queues: Mapping[str, SearchQueue],
    settings: ServeSettings,
    metrics: ServerMetrics,
    guarded: Sequence[Any],
) -> None:
    Query = Annotated[str, StringConstraints(max_length=settings.max_query_length)]
    PassageId = Annotated[str, StringConstraints(min_length=1, max_length=2000)]

    class SearchRequest(BaseModel):
        """What to search for."""

        model_config = ConfigDict(extra="forbid", strict=True)

        queries: list[Query] = Field(
            min_length=1,
            max_length=settings.max_queries,
            description="The queries.",
            examples=[["who discovered penicillin"]],
        )
        k: int = Field(default=10, ge=1, le=settings.max_k, description="Passages per query.")
        among: list[PassageId] | None = Field(
            default=None, max_length=settings.max_ids, description="Ids of the only passages to rank."
        )
        exclude: list[PassageId] | None = Field(
            default=None, max_length=settings.max_ids, description="Ids of passages to leave out."
        )
        identifiers: int | None = Field(
            default=10, ge=0, description="Identifiers to list for each passage, the best ones; null for all."
        )
        views: list[View] | None = Field(
            default=None, max_length=len(VIEWS), description="Views of the identifiers to list; by default all."
        )
        texts: bool = Field(default=True, description="Whether to add the title and the text of each passage.")
        marked: bool = Field(
            default=False, description="Whether to divide the texts where the listed identifiers start and end."
        )
        system: str | None = Field(
            default=None, description=f"What searches: {', '.join(queues)}; by default the first."
        )

    @app.post(
        "/search",
        tags=["search"],
        summary="Search",
        dependencies=guarded,
        responses=_responses(settings, 404, 408, 413, 422, 503),
    )
    async def search(body: SearchRequest, request: Request) -> SearchAnswer:
        """Find passages for queries. Requests that wait at the same time are searched together."""
        began = time.monotonic()
        name = next(iter(queues)) if body.system is None else body.system
        if name not in queues:
            raise Refusal(404, f"There is no system of this name. There is: {', '.join(queues)}.")
        queue = queues[name]
        try:
            futures = queue.submit(body.queries, body.k, Restriction.of(body.among, body.exclude))
            found = await _results(futures, request, settings.timeout)
        except QueueFull as error:
            raise Refusal(503, str(error), error.retry_after) from None
        except (NotReady, OutOfMemory) as error:
            raise Refusal(503, f"{error} Try again later.", 5) from None
        except TimeoutError:
            sentence = f"The search took more than {settings.timeout:g} seconds. Try again later."
            raise Refusal(503, sentence, 5) from None
        except BadQuery as error:
            raise Refusal(422, str(error)) from None
        except SearchFailed:
            raise Refusal(500, _FAILED) from None
        assert queue.system is not None
        writer = AnswerWriter(
            queue.system, _texts_of(queue, queues), body.identifiers, body.views, body.texts, body.marked
        )
        results = await run_in_threadpool(lambda: list(map(writer.query, body.queries, found)))
        metrics.queries.labels(name).inc(len(results))
        seconds = time.monotonic() - began
        asked = "1 query" if len(results) == 1 else f"{len(results)} queries"
        if settings.log_queries:
            asked = " ".join(map(repr, body.queries))
        logger.info("%s: %s, k=%d, %.0f ms", name, asked, body.k, 1000 * seconds)
        return SearchAnswer(system=name, seconds=seconds, results=results)

    @app.get(
        "/passages/{passage_id:path}",
        tags=["search"],
        summary="A passage",
        dependencies=guarded,
        responses=_responses(settings, 404, 422, 503),
    )
    def passage(
        passage_id: Annotated[str, Path(description="Id of the passage; a slash may stand in it.")],
    ) -> PassageAnswer:
        """The texts of a passage."""
        corpora = [_texts_of(queue, queues) for queue in queues.values()]
        present = [corpus for corpus in corpora if corpus is not None]
        if not present and any(queue.state == "loading" for queue in queues.values()):
            raise Refusal(503, "The model is being loaded. Try again later.", 5)
        if not present:
            raise Refusal(404, "This server has no texts: no corpus is saved with the retriever, and none was given.")
        for corpus in present:
            if passage_id in corpus.ids:
                return passage_answer(corpus.get(passage_id))
        raise Refusal(404, "There is no passage with this id.")


def _add_facts(
    app: FastAPI,
    queues: Sequence[SearchQueue],
    settings: ServeSettings,
    metrics: ServerMetrics,
    guarded: Sequence[Any],
) -> None:
    by_name = {queue.name: queue for queue in queues}

    @app.get(
        "/healthz",
        tags=["server"],
        summary="Whether the server is ready",
        responses={503: {"model": HealthAnswer, "description": "A model does not answer (yet)."}},
    )
    async def healthz() -> JSONResponse:
        """Ready only when every model answers; after a failed search, this asks for a new one."""
        states: dict[str, str] = {queue.name: queue.check() for queue in queues}
        ready = all(state == "ready" for state in states.values())
        answer = HealthAnswer(ready=ready, systems=states)
        return JSONResponse(answer.model_dump(), 200 if ready else 503, None if ready else {"retry-after": "2"})

    @app.get(
        "/info",
        tags=["server"],
        summary="What this server is",
        dependencies=guarded,
        responses=_responses(settings),
    )
    async def info() -> InfoAnswer:
        """Names of what searches, and limits of a request."""
        systems = [
            SystemAnswer(
                name=queue.name,
                kind="" if queue.system is None else queue.system.kind,
                views=[] if queue.system is None else list(queue.system.views),
                texts=_texts_of(queue, by_name) is not None,
                examples=[] if queue.system is None else list(queue.system.examples),
            )
            for queue in queues
        ]
        limits = LimitsAnswer(**{name: getattr(settings, name) for name in LimitsAnswer.model_fields})
        return InfoAnswer(version=__version__, systems=systems, limits=limits)

    @app.get(
        "/metrics",
        tags=["server"],
        summary="Metrics for Prometheus",
        dependencies=guarded,
        response_class=Response,
        responses={
            200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "The metrics."},
            **_responses(settings),
        },
    )
    def read_metrics() -> Response:
        """Requests, queries, batches, times, memory."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _add_pages(app: FastAPI) -> None:
    folder = resources.files("dgr_trainer.serving") / "static"
    files = {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}

    def add(path: str, name: str) -> None:
        media_type = _TYPES[name[name.rindex(".") :]]

        @app.api_route(path, methods=["GET", "HEAD"], include_in_schema=False, response_class=HTMLResponse, name=name)
        async def file() -> Response:
            return Response(files[name], media_type=media_type, headers={"cache-control": "no-cache"})

    add("/", "page.html")
    add("/docs", "docs.html")
    for name in files:
        add(STATIC + name, name)


def _texts_of(queue: SearchQueue, queues: Mapping[str, SearchQueue]) -> Corpus | None:
    """The texts of a system: its own, or those of the others, which rank passages of the same corpus."""
    for one in (queue, *queues.values()):
        if one.system is not None and one.system.corpus is not None:
            return one.system.corpus
    return None


async def _results(
    futures: Sequence[Future[list[Hit] | None]], request: Request, timeout: float
) -> list[list[Hit] | None]:
    """Wait for results; those that nobody waits for any more are not searched for."""
    waiting = asyncio.gather(*map(asyncio.wrap_future, futures))
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        either: set[asyncio.Future[Any]] = {waiting, gone}
        await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return list(waiting.result())
        raise TimeoutError
    finally:
        gone.cancel()
        if not waiting.done():
            waiting.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await waiting


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _on_refusal(_: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    headers = None if error.retry_after is None else {"retry-after": str(error.retry_after)}
    return JSONResponse({"error": error.sentence}, error.status, headers)


async def _on_invalid(_: Request, error: Exception) -> Response:
    """Tell the first mistakes of a request in a sentence, without what it holds."""
    assert isinstance(error, RequestValidationError)
    mistakes = error.errors()
    if any(mistake["type"] == "json_invalid" for mistake in mistakes):
        return JSONResponse({"error": 'The body is not JSON. Send an object such as {"queries": ["..."]}.'}, 400)
    shown = []
    for mistake in mistakes[:3]:
        place = ".".join(str(part) for part in mistake["loc"] if part not in ("body", "path"))
        message = mistake["msg"][:1].lower() + mistake["msg"][1:]
        shown.append(f"{place or 'the body'}: {message}")
    more = f" (and {len(mistakes) - 3} more)" if len(mistakes) > 3 else ""
    sentence = f"The request cannot be used: {'; '.join(shown)}{more}. /docs lists the fields."
    return JSONResponse({"error": sentence}, 422)


async def _on_bug(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": _FAILED}, 500)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    sentence = {
        400: 'The body is not JSON. Send an object such as {"queries": ["..."]}.',
        404: "There is nothing at this address. /docs lists what there is.",
        405: f"{request.method} is not possible here. /docs lists what is.",
    }.get(error.status_code, str(error.detail))
    return JSONResponse({"error": sentence}, error.status_code, error.headers)
