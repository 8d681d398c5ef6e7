"""Checks of requests, and headers of responses, against other sites and other users.

A page of another site can make the browser send requests to this server: directly, or after
pointing its own domain name at 127.0.0.1 (DNS rebinding). The first is recognized by the Origin
header, the second by the Host header.
"""

import hmac
import ipaddress
from collections.abc import Iterable
from urllib.parse import parse_qs, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether a host name or address is only reachable from this computer."""
    host = host.removeprefix("[").removesuffix("]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Guard:
    """ASGI middleware that refuses foreign requests.

    Args:
        app: the application.
        local: whether the server listens on a loopback address alone; the Host must name one then.
        token: required in the URL of the first request, and then in a cookie; "": none.
        cookie: name of the cookie.
    """

    def __init__(self, app: ASGIApp, local: bool, token: str, cookie: str):
        self._app, self._local, self._token, self._cookie = app, local, token, cookie

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._foreign(headers)
        response: Response | None = None
        if refusal:
            response = PlainTextResponse(refusal, 403)
        elif self._token:
            query = parse_qs(scope["query_string"].decode("latin-1"))
            if self._matches(query.pop("token", [])):
                if scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/":
                    # The address bar and the history do not keep the token.
                    rest = urlencode(query, doseq=True)
                    response = RedirectResponse("/" + (f"?{rest}" if rest else ""), 303)
                    response.set_cookie(
                        # Not "strict": then links on other sites would not open the page.
                        self._cookie, self._token, httponly=True, samesite="lax",
                        secure=scope["scheme"] == "https",
                    )  # fmt: skip
            elif not self._matches(_cookie(headers, self._cookie)):
                response = PlainTextResponse(
                    "this server needs the token of its address: open the address that it printed",
                    401,
                )
        if response is None:
            await self._app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": ""})
        else:
            await response(scope, receive, _with_headers(send))

    def _foreign(self, headers: Headers) -> str:
        """Returns why a request comes from another site; "" if it does not."""
        host = headers.get("host", "")
        if self._local and not is_loopback(_host_name(host)):
            return "this server only answers to localhost and 127.0.0.1"
        origin = headers.get("origin")
        if origin is not None and _netloc(origin) != host.lower():
            return "requests from other sites are refused"
        if headers.get("sec-fetch-site") in ("cross-site", "same-site") and (
            headers.get("sec-fetch-mode") != "navigate"
        ):
            return "requests from other sites are refused"
        return ""

    def _matches(self, tokens: Iterable[str]) -> bool:
        return any(hmac.compare_digest(t.encode(), self._token.encode()) for t in tokens)


def _cookie(headers: Headers, name: str) -> list[str]:
    cookies = cookie_parser(headers.get("cookie", ""))
    return [cookies[name]] if name in cookies else []


def _netloc(url: str) -> str:
    """The host and port of a URL in lower case; "" for invalid ones."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return ""


def _host_name(netloc: str) -> str:
    try:
        return urlsplit(f"//{netloc}").hostname or ""
    except ValueError:
        return ""


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in _HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sender
