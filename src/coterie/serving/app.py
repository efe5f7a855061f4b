"""The application: routes, pages, refusals, OpenAPI, start and end."""

import logging
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import Depends, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from pydantic import ValidationError
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.middleware.errors import ServerErrorMiddleware
from starlette.middleware.exceptions import ExceptionMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from coterie.errors import ConfigError, DataError, NotFittedError
from coterie.serving.explore_routes import router as explore_router
from coterie.serving.exploring import NotFound
from coterie.serving.guard import NO_ANSWER, Guard
from coterie.serving.keys import VARIABLE, Keys
from coterie.serving.lanes import Overloaded
from coterie.serving.page import pages
from coterie.serving.problem import mistakes, problem
from coterie.serving.routes import (
    BODIES,
    json_answer,
    recommend,
    refuse_unknown_parameters,
    router,
)
from coterie.serving.service import Service
from coterie.serving.store import StoreUnavailable

STATUS: dict[type[Exception], int] = {
    DataError: 422,
    ConfigError: 422,
    NotFittedError: 422,
    NotFound: 404,
}
SAY_AGAIN_SECONDS = 60.0
RAISED = "coterie.raised"  # in the scope: what was raised, on its way to the middlewares
log = logging.getLogger(__name__)


def create_app(service: Service, keys: Keys) -> ASGIApp:
    """The guarded application of one service, which it closes when it ends."""
    return guarded(create_api(service, secured=bool(keys)), service, keys)


def create_api(service: Service, *, secured: bool) -> FastAPI:
    """The interface without its guard; ``secured`` says in OpenAPI that a key is needed."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.reloader.start()
        yield
        await service.close()

    # no documentation pages: they would load scripts from elsewhere
    api = FastAPI(title="coterie", version=version("coterie"), lifespan=lifespan, openapi_url=None)
    api.state.service = service
    for routes in (router, explore_router):
        api.include_router(routes, dependencies=[Depends(refuse_unknown_parameters)])
    api.include_router(pages(secured=secured))
    for kind, status in STATUS.items():
        api.add_exception_handler(kind, _refusing(status))
    api.add_exception_handler(Overloaded, _overloaded)
    api.add_exception_handler(StoreUnavailable, _WithoutStore())
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(ClientDisconnect, _gone)
    api.add_exception_handler(Exception, _fault)
    api.openapi = lambda: _openapi(api, secured=secured)  # type: ignore[method-assign]

    async def openapi() -> Response:
        return json_answer(api.openapi())

    # not the framework's own, which the log and the metrics would not know by name
    api.add_api_route("/openapi.json", openapi, methods=["GET", "HEAD"], include_in_schema=False)
    return api


def guarded(api: FastAPI, service: Service, keys: Keys) -> ASGIApp:
    """The interface behind its guard."""
    return Guard(
        Shortcut(api, Route("/v1/recommend", recommend, methods=["POST"])),
        keys=keys,
        config=service.config,
        metrics=service.metrics,
    )


class Shortcut:
    """One route past the framework's middlewares, matching and dependencies, which it does not use.

    They take longer than the question; errors are handled as everywhere.

    Parameters
    ----------
    api
        Answers all else.
    route
        A route of it, without parameters and with one method.
    """

    def __init__(self, api: FastAPI, route: Route) -> None:
        self._api, self._route = api, route
        (method,) = route.methods or {"GET"}
        self._asked = (method, route.path)
        handlers = dict(api.exception_handlers)
        fault = handlers.pop(Exception)  # is answered, and then raised for the guard's log
        self._refuse = ServerErrorMiddleware(ExceptionMiddleware(_raise, handlers), fault)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the question, or hand it on."""
        if (scope.get("method"), scope.get("path")) != self._asked:
            await self._api(scope, receive, send)
            return
        scope["app"], scope["route"] = self._api, self._route
        request = Request(scope, receive)
        try:
            await refuse_unknown_parameters(request)
            response: Response = await self._route.endpoint(request)
        except Exception as error:
            scope[RAISED] = error
            await self._refuse(scope, receive, send)
        else:
            await response(scope, receive, send)


async def _raise(scope: Scope, receive: Receive, send: Send) -> None:
    """For the framework's middlewares, which know how to refuse."""
    raise scope.pop(RAISED)


def _refusing(status: int) -> Callable[[Request, Exception], Response]:
    def handler(request: Request, error: Exception) -> Response:
        return problem(request.scope, status, str(error))

    return handler


async def _overloaded(request: Request, error: Exception) -> Response:
    assert isinstance(error, Overloaded)
    return problem(request.scope, 503, str(error), retry_seconds=error.retry_seconds)


class _WithoutStore:
    """Tells the operator why, whenever the cause changes and each minute; and the client that."""

    def __init__(self) -> None:
        self._cause, self._said = "", -math.inf

    async def __call__(self, request: Request, error: Exception) -> Response:
        cause, now = str(error), time.monotonic()
        if cause != self._cause or now - self._said >= SAY_AGAIN_SECONDS:
            log.warning("the store does not answer", extra={"why": cause})
            self._cause, self._said = cause, now
        return problem(request.scope, 503, "The store does not answer.")


async def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    if len(found) == 1 and isinstance(found[0], ValidationError):
        return problem(request.scope, 422, mistakes(found[0]))
    lines = [f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in found]
    return problem(request.scope, 422, "; ".join(lines))


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refused = problem(request.scope, error.status_code, error.detail)
    refused.headers.update(error.headers or {})
    return refused


async def _gone(request: Request, _: Exception) -> Response:
    return Response(status_code=NO_ANSWER)


async def _fault(request: Request, _: Exception) -> Response:
    return problem(request.scope, 500, "A fault of the server; its log says more.")


def _openapi(api: FastAPI, *, secured: bool) -> dict[str, Any]:
    if api.openapi_schema is None:
        schema = get_openapi(title=api.title, version=api.version, routes=api.routes)
        _, bodies = models_json_schema(
            [(model, "validation") for model in BODIES],
            ref_template="#/components/schemas/{model}",
        )
        schema["components"]["schemas"] |= bodies["$defs"]
        if secured:
            schema["components"]["securitySchemes"] = {
                "key": {"type": "http", "scheme": "bearer", "description": f"Of {VARIABLE}."}
            }
            schema["security"] = [{"key": []}]
        api.openapi_schema = schema
    return api.openapi_schema
