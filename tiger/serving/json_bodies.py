"""JSON bodies of requests: their structure is limited before anything is built of them, and large ones are parsed in a
thread, so that no client keeps the others waiting.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any

from fastapi import Request
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from tiger.serving.schemas import MAX_CANDIDATES, MAX_HISTORIES, MAX_HISTORY, MAX_NEW_ITEMS

MAX_DEPTH = 8  # twice that of the deepest request
MAX_MEMBERS = 32  # of an object; more than three times those of the largest request
MAX_CONTAINERS = 4 * max(MAX_HISTORIES, MAX_NEW_ITEMS)  # a ranking request of full size has 3 per history
MAX_VALUES = 2 * MAX_HISTORIES * (MAX_HISTORY + MAX_CANDIDATES)  # twice those of a ranking request of full size
SMALL = 4096  # bytes that are parsed in less time than it takes to wake a thread; not tuned
# Strings are skipped as a whole: with their escapes removed, they end at the next quote.
_TOKENS = re.compile(rb'"[^"]*"|[\[\]{},]')


def parse_json(body: bytes) -> Any:
    """The content of a body.

    Raises:
        HTTPException: 400 where it is no JSON in UTF-8 or nested too deeply, 413 where it holds too many values.
    """
    _check_structure(body)
    try:
        return json.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise HTTPException(400, "the body is not JSON: it is not UTF-8") from error
    except json.JSONDecodeError as error:
        raise HTTPException(400, f"the body is not JSON: {error.msg}, at character {error.pos}") from error
    except ValueError as error:  # a number of 5,000 digits
        raise HTTPException(400, f"the body is not JSON: {str(error).partition(';')[0][:200]}") from error


def _check_structure(body: bytes) -> None:
    """Count containers and values, up to the first that is too many. In Python, not in C: so that other threads run
    meanwhile."""
    plain = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    members: list[int] = []  # commas left in each open object or array
    containers = values = 0
    for token in _TOKENS.finditer(plain):
        kind = plain[token.start()]
        if kind in b"{[":
            members.append(MAX_MEMBERS - 1 if kind in b"{" else MAX_VALUES)
            containers += 1
            if len(members) > MAX_DEPTH:
                raise HTTPException(400, f"the body is nested more than {MAX_DEPTH} deep")
            if containers > MAX_CONTAINERS:
                raise HTTPException(413, f"the body has more than {MAX_CONTAINERS} lists and objects: send less")
        elif kind in b"}]":
            if members:
                members.pop()
        elif kind in b",":
            values += 1
            if values > MAX_VALUES:
                raise HTTPException(413, f"the body has more than {MAX_VALUES} values: send less at a time")
            if members:
                members[-1] -= 1
                if members[-1] < 0:
                    raise HTTPException(413, f"an object of the body has more than {MAX_MEMBERS} members")


class JsonRequest(Request):
    """A request whose body is parsed by :func:`parse_json`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            body = await self.body()
            if len(body) <= SMALL:
                self._json = parse_json(body)
            else:
                parsers = self.scope["app"].state.parsers
                self._json = await asyncio.get_running_loop().run_in_executor(parsers, parse_json, body)
        return self._json


class JsonRoute(APIRoute):
    """A route whose requests are :class:`JsonRequest`."""

    def get_route_handler(self) -> Callable:
        """The route's own handler, given such a request."""
        handle = super().get_route_handler()

        async def handle_json(request: Request):
            return await handle(JsonRequest(request.scope, request.receive))

        return handle_json
