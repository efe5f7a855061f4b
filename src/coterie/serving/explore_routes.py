"""The HTTP interface for people: search, explanations of a history, and the map."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import TypeAdapter
from starlette.responses import Response

from coterie.serving import wire
from coterie.serving.routes import MISSING, POSTED, gives, json_answer, read, service_of, takes

LONGEST_QUERY = 200
EXPLAIN = TypeAdapter(wire.ExplainRequest)
PLACE = TypeAdapter(wire.PlaceRequest)

router = APIRouter()


@router.get(
    "/v1/about",
    summary="What this server is, and what it can tell",
    responses=gives(wire.AboutAnswer),
)
async def about(request: Request) -> Response:
    """The default model, and whether it can explain and draw a map."""
    return json_answer(service_of(request).exploring.about())


@router.get(
    "/v1/items",
    summary="Items by title or id",
    responses=gives(wire.FoundAnswer),
)
async def find(
    request: Request,
    query: Annotated[
        str,
        Query(
            max_length=LONGEST_QUERY,
            description="Words; none finds the most popular.",
            examples=["pulp fiction"],
        ),
    ] = "",
    limit: Annotated[int, Query(ge=1, description="How many, at most.", examples=[5])] = 10,
) -> Response:
    """All words of the query stand in the title; an item whose id is the query comes first.

    Words at the beginning of words come before words inside, then what is popular. Case, accents
    and punctuation do not matter.
    """
    return json_answer(await service_of(request).find(query, limit))


@router.post(
    "/v1/explain",
    summary="Why someone with a history gets its items",
    responses=gives(wire.ExplainAnswer, MISSING, POSTED),
    openapi_extra=takes(wire.ExplainRequest),
)
async def explain(request: Request) -> Response:
    """As for a user's stored history, of the history in the request; by the default model."""
    asked = await read(request, EXPLAIN)
    user = None if asked.user is None else str(asked.user)
    return json_answer(
        await service_of(request).explain_history(asked.history, asked.k, asked.items, user=user)
    )


@router.get(
    "/v1/map",
    summary="The community's map",
    responses=gives(wire.MapAnswer, MISSING),
)
async def community_map(request: Request) -> Response:
    """Users of the community, without their ids, and popular items; by the default model."""
    return json_answer(await service_of(request).exploring.map())


@router.post(
    "/v1/map",
    summary="Where someone stands on the map",
    responses=gives(wire.PlaceAnswer, MISSING, POSTED),
    openapi_extra=takes(wire.PlaceRequest),
)
async def place(request: Request) -> Response:
    """The posterior mean of the history, and of each of its items alone."""
    asked = await read(request, PLACE)
    return json_answer(await service_of(request).exploring.place(asked.history))
