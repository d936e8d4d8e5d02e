"""Who may see the page: an ASGI middleware before everything it serves.

- The Host header must be a name of ours or an address. So a page of somebody else's whose name is made to lead here
  (DNS rebinding) is refused: its name is neither.
- Where there is a token, a request brings it as ``Authorization: Bearer``, as a cookie, or once as ``?token=``, which
  sets the cookie and leads to the address without it. Only /healthz answers without: it says nothing but how it is.
- Every answer says what a page may load: what is served here, and nothing else.
"""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import Iterable
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

ASK = """<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>hypern-shm: token</title><form><p><label>Token, as <code>hypern-shm serve</code> printed it:
<input name="token" type="password" autocomplete="off" required></label> <button>Open</button></form></html>"""


def is_loopback(host: str) -> bool:
    """Does only this machine reach it?"""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """Lets through what may see the page.

    Args:
        app: what is guarded.
        token: None: nobody needs one.
        hosts: names, besides localhost, this machine's and all addresses, under which it may be asked for.
    """

    def __init__(self, app: ASGIApp, token: str | None, hosts: Iterable[str] = ()) -> None:
        self._app = app
        self._token = None if token is None else token.encode()
        self._hosts = {"localhost", socket.gethostname().lower(), *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope)
        await (self._app if refusal is None else refusal)(scope, receive, with_headers)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_ours(headers.get("host", "")):
            return PlainTextResponse("421: not served under this name; see --allow-host\n", 421)
        if self._token is None or scope["path"] == "/healthz":
            return None
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token")
        if given and self._is_right(given[0]):
            response = RedirectResponse("/", 303)
            response.set_cookie(self._cookie(scope), given[0], httponly=True, samesite="lax")
            return response
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        cookie = cookie_parser(headers.get("cookie", "")).get(self._cookie(scope), "")
        if (scheme.lower() == "bearer" and self._is_right(bearer)) or self._is_right(cookie):
            return None
        if scope["path"] == "/":
            return HTMLResponse(ASK, 401, {"WWW-Authenticate": "Bearer"})
        return PlainTextResponse("401: a token is needed\n", 401, {"WWW-Authenticate": "Bearer"})

    def _is_right(self, given: str) -> bool:
        return self._token is not None and hmac.compare_digest(given.encode(errors="replace"), self._token)

    def _is_ours(self, host: str) -> bool:
        # [::1]:80, 127.0.0.1:80, name:80, and each without a port
        name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return name.lower().rstrip(".") in self._hosts
        return True

    @staticmethod
    def _cookie(scope: Scope) -> str:
        # Cookies are of a host, whatever the port: two pages on one machine must not take each other's.
        server = scope.get("server")
        return f"hypern_shm_{server[1] if server else 0}"
