"""The page at ``/``, on which people choose cartridges and talk to them; three files that ask for nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

# Nothing that got into a reply could run, be fetched, or send anything away.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_KINDS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
PATHS = tuple(_KINDS)


def page_routes() -> list[Route]:
    """Of the page's files."""
    return [Route(path, _file) for path in PATHS]


def _file(request: Request) -> Response:
    name, kind = _KINDS[request.url.path]
    return Response(files(__package__).joinpath(name).read_bytes(), media_type=kind, headers=_HEADERS)
