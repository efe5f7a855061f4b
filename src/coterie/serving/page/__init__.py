"""The pages for people: the files of this folder, as they are.

A page may run our scripts and ask our server, nothing more: no inline script, no text made into
markup (trusted types), no frame around it, nothing from elsewhere.
"""

import hashlib
from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import APIRouter, Request
from starlette.responses import Response

PAGES = {"/": "index.html", "/experiments": "experiments.html"}
KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Cache-Control": "no-cache",  # kept, but never used without asking whether it is still so
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}
UNSET = b'data-secured=""'


def _suffix(name: str) -> str:
    return name[name.rfind(".") :]


_FILES = {
    file.name: file.read_bytes()
    for file in files(__name__).iterdir()
    if _suffix(file.name) in KINDS
}
_NAMES = PAGES | {
    f"/page/{name}": name for name in sorted(_FILES) if _suffix(name) != ".html"
}  # by path
PATHS = frozenset(_NAMES)


def pages(*, secured: bool) -> APIRouter:
    """Routes of the pages; ``secured`` tells them to ask for a key before they ask for data."""
    router = APIRouter(include_in_schema=False)
    for path, name in _NAMES.items():
        body = _FILES[name].replace(UNSET, f'data-secured="{"yes" if secured else "no"}"'.encode())
        router.add_api_route(path, _serving(body, KINDS[_suffix(name)]), methods=["GET", "HEAD"])
    return router


def _serving(body: bytes, kind: str) -> Callable[[Request], Awaitable[Response]]:
    tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'

    async def serve(request: Request) -> Response:
        known = [part.strip() for part in request.headers.get("if-none-match", "").split(",")]
        if tag in known or f"W/{tag}" in known:  # a proxy that compresses weakens the tag
            return Response(status_code=304, headers={**HEADERS, "ETag": tag})
        return Response(body, media_type=kind, headers={**HEADERS, "ETag": tag})

    return serve
