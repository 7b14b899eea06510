"""Guard of the web page: ASGI middleware that refuses what Gradio offers besides the page.

Gradio stores whatever anybody uploads, and answers programs besides its page. This page needs neither.
"""

from __future__ import annotations

from tiger.serving.responses import problem

API = "/gradio_api/"
# All that the page's own script sends: events, and that it is no longer interested in one.
POSTS = ("queue/join", "cancel", "reset")
# What can be read and is not the page: files by their paths, other hosts, descriptions for programs, statistics.
CLOSED = (
    *("file", "proxy", "stream", "call", "openapi.json", "upload", "upload_progress", "deep_link", "run-history"),
    *("dev", "mcp", "vibe-code"),
)
CLOSED_PAGES = ("/monitoring", "/docs", "/redoc", "/openapi.json", "/login", "/logout")
MAX_EVENT = 2**20  # bytes of an event: a history with its settings is a thousandth of that
# Browsers load nothing for this page from other hosts. Gradio's scripts lie in the page and compile templates.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:{images}; font-src 'self' data:; object-src 'none'; base-uri 'self'; form-action 'self'"
)


class PageGuard:
    """Refuses uploads, files, calls by programs, and events of more than a megabyte; forbids other hosts' content.

    Args:
        app: Gradio's.
        show_images: allow images of other hosts, and nothing else of them.
    """

    def __init__(self, app, show_images: bool = False):
        self.app = app
        self._policy = POLICY.format(images=" https: http:" if show_images else "").encode()

    async def __call__(self, scope, receive, send):
        if scope["type"] == "websocket":  # the page has none
            return await send({"type": "websocket.close", "code": 1008})
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        if not _is_open(scope["method"], scope["path"]):
            return await problem(404, "the page has no such endpoint")(scope, receive, send)
        claimed = dict(scope["headers"]).get(b"content-length", b"")
        if scope["method"] == "POST" and not (claimed.isdigit() and int(claimed[:20]) <= MAX_EVENT):
            return await problem(413, f"an event has at most {MAX_EVENT} bytes, and says so")(scope, receive, send)

        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                added = [(b"content-security-policy", self._policy), (b"referrer-policy", b"same-origin")]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        await self.app(scope, receive, send_with_policy)


def _is_open(method: str, path: str) -> bool:
    path = "/" + path.strip("/")
    if method in ("GET", "HEAD"):
        name = path.removeprefix(API).partition("/")[0].partition("=")[0]
        return not (path.startswith(API) and name in CLOSED) and not path.startswith(CLOSED_PAGES)
    return method == "POST" and path.startswith(API) and path.removeprefix(API) in POSTS
