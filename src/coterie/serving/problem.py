"""Refusals: one JSON shape for all of them."""

from pydantic import ValidationError
from pydantic_core import to_json
from starlette.responses import Response
from starlette.types import Scope

from coterie.serving.lanes import RETRY_SECONDS

SHOWN = 5  # mistakes of one request


def problem(
    scope: Scope, status: int, detail: str, *, retry_seconds: int = RETRY_SECONDS
) -> Response:
    """The answer to a request that is refused; it repeats nothing that could run in a browser."""
    body = body_of(detail, scope.get("request_id", ""))
    response = Response(body, status, media_type="application/json")
    if status == 503:
        response.headers["Retry-After"] = str(retry_seconds)
    return response


def body_of(detail: str, request_id: str = "") -> bytes:
    """The JSON of a refusal; a request that could not be read has no id."""
    return to_json({"detail": detail, "request_id": request_id})


def mistakes(error: ValidationError) -> str:
    """Where a request is not what it should be, and what was expected."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    lines = [f"{'.'.join(map(str, item['loc'])) or 'body'}: {item['msg']}" for item in found]
    more = "" if len(lines) <= SHOWN else f"; and {len(lines) - SHOWN} more"
    return "; ".join(lines[:SHOWN]) + more
