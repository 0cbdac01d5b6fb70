"""Prefect's server, for the user who started it.

    python -m pipelines.flows.local_server HOST PORT

``prefect server start`` knows a password (PREFECT_SERVER_API_AUTH_STRING) and origins whose pages
may read an answer (PREFECT_SERVER_CORS_ALLOWED_ORIGINS). This module adds two checks for which it
has no setting. A request must name this server as its host, so a foreign name that leads here gets
no answer (DNS rebinding). A request must not come from a page of another origin. The page
``/sign-in`` hands the browser the password, for which the dashboard would ask.
``pipelines/flows/server.py`` starts this server and sets the password.
"""

import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NoReturn

HOST = "127.0.0.1"
NAMES = (HOST, "localhost")
# The password comes after the `#`, which a browser sends to no server, and leaves the address at
# once. Where it is right, it is kept in the place in which Prefect's own form keeps it.
SIGN_IN = """<!doctype html><meta charset="utf-8"><title>Sign in</title><p>Signing in …</p><script>
const password = btoa(decodeURIComponent(location.hash.slice(1)));
history.replaceState(null, "", location.pathname);
fetch("/api/admin/version", {headers: {Authorization: "Basic " + password}}).then(answer => {
  if (!answer.ok) throw answer.status;
  localStorage.setItem("prefect-password", password);
  location.replace("/");
}).catch(() => {
  document.querySelector("p").textContent = "The password is wrong; start the dashboard again.";
});
</script>"""
# No page of another origin may show the dashboard in a frame and have its buttons pressed.
HEADERS = [(b"content-security-policy", b"frame-ancestors 'none'"), (b"x-frame-options", b"DENY")]


def names(host: str) -> list[str]:
    """The names under which a server that listens on ``host`` is called."""
    return list(NAMES) if host == HOST else [host]


def origins(host: str, port: int) -> list[str]:
    """The origins of the own pages of a server."""
    return [f"http://{name}:{port}" for name in names(host)]


class OwnPages:
    """Refuses requests from pages of other origins. Without a page, a request has no origin."""

    def __init__(self, app: Any, allowed: list[str]):
        self.app, self.allowed = app, {origin.encode() for origin in allowed}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        from starlette.responses import PlainTextResponse

        if {value for name, value in scope.get("headers", ()) if name == b"origin"} - self.allowed:
            await PlainTextResponse("Foreign origin", status_code=403)(scope, receive, send)
            return

        async def framed(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *HEADERS]
            await send(message)

        await self.app(scope, receive, framed)


def application(host: str, port: int, failures: list[BaseException]) -> Any:
    """Prefect's application behind the two checks. failures: gets the error of a failed start."""
    from prefect.server.api.server import create_app
    from starlette.middleware.trustedhost import TrustedHostMiddleware
    from starlette.responses import HTMLResponse
    from starlette.routing import Route

    app = create_app(final=True)
    app.router.routes.insert(0, Route("/sign-in", lambda request: HTMLResponse(SIGN_IN)))
    app.add_middleware(OwnPages, allowed=origins(host, port))
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=names(host), www_redirect=False)
    started = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[Any]:
        try:
            async with started(app) as state:
                yield state
        except Exception as error:
            failures.append(error)
            raise

    app.router.lifespan_context = lifespan
    return app


def reason(error: BaseException) -> str:
    """The message of the system or the database, in one line, with the folder."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    error = getattr(error, "orig", None) or error  # SQLAlchemy wraps the database's error
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    line = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return f"{line} ({os.environ['PREFECT_HOME']})"


def serve(host: str, port: int) -> NoReturn:
    """Serve until stopped. Where that fails, the last line on standard error says why."""
    os.umask(0o077)  # the database holds what every run has logged
    failures: list[BaseException] = []
    try:
        import uvicorn
        from prefect.settings import get_current_settings

        settings = get_current_settings().server
        uvicorn.run(
            application(host, port, failures),
            host=host,
            port=port,
            timeout_keep_alive=settings.api.keepalive_timeout,
            log_level=settings.logging_level.lower(),
        )
    except Exception as error:
        failures.append(error)
    finally:
        if failures:
            print(f"error: {reason(failures[-1])}", file=sys.stderr, flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    serve(sys.argv[1], int(sys.argv[2]))
