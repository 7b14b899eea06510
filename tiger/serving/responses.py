"""JSON responses of the service, errors among them."""

from __future__ import annotations

import json
from collections.abc import Mapping

from starlette.responses import Response


def problem(status: int, reason: str, headers: Mapping[str, str] | None = None) -> Response:
    """An error response: ``{"error": reason}``."""
    return json_response({"error": reason}, status, headers)


def json_response(content: dict, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON response, in ASCII: clients may send lone surrogates, which UTF-8 can't encode."""
    return Response(json.dumps(content, allow_nan=False), status, headers, "application/json")
