"""The HTTP interface: what a path takes, whom it asks, what it answers.

Bodies are read and answers written by pydantic's JSON code directly; the framework's own way over
Python objects takes nearly twice as long.
"""

from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Discriminator, Tag, TypeAdapter, ValidationError
from pydantic_core import to_json
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse, Response

from coterie.errors import DataError
from coterie.experiment.events import Event
from coterie.serving import examples, wire
from coterie.serving.service import Service

M = TypeVar("M")
REFUSALS: dict[int | str, dict[str, Any]] = {
    401: {"model": wire.Problem, "description": "No key, or a wrong one."},
    408: {"model": wire.Problem, "description": "The body came too slowly."},
    413: {"model": wire.Problem, "description": "The body is too large."},
    422: {"model": wire.Problem, "description": "The request is not what it should be."},
    503: {
        "model": wire.Problem,
        "description": "Overloaded, or the store is away; come back after Retry-After seconds.",
    },
}
POSTED: dict[int | str, dict[str, Any]] = {
    403: {"model": wire.Problem, "description": "Sent by a browser from a page of another site."}
}
MISSING: dict[int | str, dict[str, Any]] = {
    404: {"model": wire.Problem, "description": "There is nothing of that name."}
}
BODIES = (
    wire.RecommendRequest,
    wire.BatchRequest,
    Event,
    wire.EventBatch,
    wire.ExplainRequest,
    wire.PlaceRequest,
)
SHOWN = 100  # characters of what was asked, in a refusal
RECOMMEND = TypeAdapter(wire.RecommendRequest)
BATCH = TypeAdapter(wire.BatchRequest)


def _event_or_batch(body: Any) -> str:
    """Which of the two a body is meant to be, so that its mistakes are told as those of one."""
    return "batch" if isinstance(body, dict) and "events" in body else "event"


EVENTS: TypeAdapter[Event | wire.EventBatch] = TypeAdapter(
    Annotated[
        Annotated[Event, Tag("event")] | Annotated[wire.EventBatch, Tag("batch")],
        Discriminator(_event_or_batch),
    ]
)

router = APIRouter()
Length = Annotated[int, Query(ge=1, description="How many of each.", examples=[5])]
IN_PATHS: dict[str, Any] = {"min_length": 1, "max_length": 512, "pattern": r"^[^\x00]*$"}
ItemId = Annotated[str, Path(**IN_PATHS, description="An item's id.", examples=["318"])]
UserId = Annotated[str, Path(**IN_PATHS, description="A user's id.", examples=["4711"])]
ExperimentName = Annotated[
    str, Path(**IN_PATHS, description="An experiment's name.", examples=["pia"])
]


async def refuse_unknown_parameters(request: Request) -> None:
    """Raise :class:`DataError` for query parameters that the route does not have.

    Only of ``/v1``: those who watch over servers add some of their own.
    """
    if not (request.scope["query_string"] and request.scope["path"].startswith("/v1/")):
        return
    asked = getattr(request.scope["route"], "dependant", None)
    known = [] if asked is None else [one.alias for one in asked.query_params]
    if unknown := sorted(request.query_params.keys() - set(known)):
        raise DataError(
            f"There is no query parameter {unknown[0][:SHOWN]!r} here; known: "
            f"{', '.join(known) or 'none'}."
        )


def takes(*models: type[BaseModel], example: Any = None) -> dict[str, Any]:
    """The description of a body that the handler reads itself."""
    refs = [{"$ref": f"#/components/schemas/{model.__name__}"} for model in models]
    content: dict[str, Any] = {"schema": refs[0] if len(refs) == 1 else {"anyOf": refs}}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def gives(model: type[BaseModel], *more: dict[int | str, dict[str, Any]]) -> dict[int | str, Any]:
    """What a route answers, and how it refuses."""
    found: dict[int | str, Any] = {200: {"model": model}, **REFUSALS}
    for one in more:
        found |= one
    return found


async def read(request: Request, adapter: TypeAdapter[M]) -> M:
    """The body, checked."""
    message = await request.receive()
    parts = [message.get("body", b"")]
    while message.get("more_body", False):
        message = await request.receive()
        parts.append(message.get("body", b""))
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    try:
        return adapter.validate_json(b"".join(parts))
    except ValidationError as error:
        raise RequestValidationError([error]) from error


def json_answer(value: Any) -> Response:
    """An answer, NaN as null."""
    return Response(to_json(value, inf_nan_mode="null"), media_type="application/json")


def service_of(request: Request) -> Service:
    """The service behind the application."""
    service: Service = request.app.state.service
    return service


@router.post(
    "/v1/recommend",
    summary="The best items for one user",
    responses=gives(wire.RecommendAnswer, POSTED),
    openapi_extra=takes(wire.RecommendRequest),
)
async def recommend(request: Request) -> Response:
    """From the items of the history, or the stored history of the user."""
    asked = await read(request, RECOMMEND)
    return json_answer((await service_of(request).recommend([asked]))[0])


@router.post(
    "/v1/recommend/batch",
    summary="The best items for several users",
    responses=gives(wire.BatchAnswer, POSTED),
    openapi_extra=takes(
        wire.BatchRequest, example={"requests": [{"history": [318]}, {"user": "4711", "k": 5}]}
    ),
)
async def recommend_batch(request: Request) -> Response:
    """All requests are answered, or none."""
    asked = await read(request, BATCH)
    return json_answer({"answers": await service_of(request).recommend(asked.requests)})


@router.get(
    "/v1/items/{item_id:path}/similar",
    summary="Items like one",
    responses=gives(wire.SimilarAnswer, MISSING),
)
async def similar(request: Request, item_id: ItemId, k: Length = 10) -> Response:
    """By the default model."""
    return json_answer(await service_of(request).similar(item_id, k))


@router.get(
    "/v1/users/{user_id:path}/explain",
    summary="Why a user gets its items",
    responses=gives(wire.ExplainAnswer, MISSING),
)
async def explain(
    request: Request,
    user_id: UserId,
    k: Length = 5,
    item: Annotated[
        list[str] | None,
        Query(max_length=50, description="Items to explain; else the best.", examples=[["296"]]),
    ] = None,
) -> Response:
    """Who helps the user, and what the scores of its items rest on, by the default model."""
    return json_answer(await service_of(request).explain(user_id, k, item))


@router.post(
    "/v1/events",
    summary="What users saw and did",
    responses=gives(wire.EventsAnswer, POSTED),
    openapi_extra=takes(Event, wire.EventBatch, example={"events": [examples.EVENT]}),
)
async def events(request: Request) -> Response:
    """One event or a batch; answered when they are on disk. Sending one again changes nothing."""
    asked = await read(request, EVENTS)
    new = asked.events if isinstance(asked, wire.EventBatch) else [asked]
    return json_answer(await service_of(request).add_events(new))


@router.get(
    "/v1/experiments",
    summary="Experiments and their arms",
    responses=gives(wire.ExperimentsAnswer),
)
async def experiments(request: Request) -> Response:
    """Those that requests may name."""
    return json_answer({"experiments": service_of(request).experiments()})


@router.get(
    "/v1/experiments/{name}",
    summary="How an experiment stands",
    responses=gives(wire.ExperimentAnswer, MISSING),
)
async def experiment(request: Request, name: ExperimentName) -> Response:
    """Exposures, lifts with intervals, and the days so far, from the store's log.

    The answer may be some seconds old. Where nothing can be concluded yet, lift, interval and
    p-value are null, and ``sentence`` says why. The days' intervals are valid at all days together.
    """
    return json_answer(await service_of(request).experiment(name))


@router.get(
    "/healthz", summary="Whether the process lives", responses={200: {"model": wire.StatusAnswer}}
)
async def healthz() -> Response:
    """Always, if it can answer."""
    return json_answer({"status": "alive"})


@router.get(
    "/readyz",
    summary="Whether requests are welcome",
    responses={200: {"model": wire.StatusAnswer}, 503: REFUSALS[503]},
)
async def readyz(request: Request) -> Response:
    """Models are loaded, the store answered within the last second, and no end is near."""
    await service_of(request).ready()
    return json_answer({"status": "ready"})


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=PlainTextResponse,
    responses={401: REFUSALS[401]},
)
async def metrics(request: Request) -> Response:
    """In Prometheus' text format."""
    return Response(
        service_of(request).metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8"
    )
