"""The web application: pages, JSON and the stream, behind one gate.

`create_app(realm)` builds it from a realm's parts and keeps no state of its own, so that it may be killed and started
at any moment. It runs without torch and without the daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

import realm
from tavern import api, pages, problems
from tavern.access import AccessTable
from tavern.api.models import JobSpec
from tavern.api.session import LOGIN_PAGE, cookie_name
from tavern.context import RealmParts, Tavern
from tavern.credentials import Credentials, PeerUid
from tavern.meters import Meters
from tavern.problems import Problem, SafeJson
from tavern.security import Gate, GateConfig, allowed_hosts
from tavern.stream import Hub
from tavern.uploads import UploadDesk


class Application:
    """An ASGI application: the gate outside, FastAPI inside. `hub` and `inner` are there for the server and tests."""

    def __init__(self, gate: ASGIApp, inner: FastAPI, hub: Hub) -> None:
        self.gate = gate
        self.inner = inner
        self.hub = hub

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.gate(scope, receive, send)


def create_app(parts: RealmParts, *, port: int | None = None, peer_uid: PeerUid | None = None) -> Application:
    """Build the application of a realm. `port` is the one listened on; `peer_uid` stands in for the kernel in tests."""
    settings = parts.settings
    hub = Hub(parts.vault, parts.paths.runs, parts.status)
    meters = Meters()
    credentials = Credentials(parts.vault.tokens, parts.paths, peer_uid)
    limits = {
        "limit_bytes": settings.tavern.upload_limit_mib << 20,
        "floor_bytes": settings.arena.disk_floor_mib << 20,
    }
    uploads = UploadDesk(parts.paths, **limits)
    tavern = Tavern(settings, parts.paths, parts.vault, credentials, hub, meters, uploads, parts.status)
    inner = _inner(tavern, parts, cookie_name(port if port is not None else settings.tavern.port))
    config = GateConfig(
        allowed_hosts=allowed_hosts(settings.tavern.host, settings.tavern.allowed_hosts),
        cookie=inner.state.cookie,
        upload_bytes=settings.tavern.upload_limit_mib << 20,
        observe=meters.observe,
        login_page=LOGIN_PAGE.read_bytes(),
    )
    page_routes = [(route.path, route.methods or set()) for route in pages.router.routes if isinstance(route, APIRoute)]
    return Application(Gate(inner, AccessTable.with_pages(page_routes), credentials, config), inner, hub)


def _inner(tavern: Tavern, parts: RealmParts, cookie: str) -> FastAPI:
    @contextlib.asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        watching = asyncio.create_task(tavern.hub.run())
        try:
            yield
        finally:
            tavern.hub.close()
            await watching

    app = FastAPI(
        title="Realm of Training",
        version=realm.__version__,
        description="Jobs, runs, checkpoints and evaluations of one realm, and the stream of what happens in it.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        openapi_url=None,
        redirect_slashes=False,
        default_response_class=SafeJson,
    )
    app.state.tavern = tavern
    app.state.realm = parts
    app.state.cookie = cookie
    problems.install(app)
    app.include_router(api.router)
    app.include_router(api.session.door)
    app.include_router(api.system.door)
    app.include_router(pages.router)

    @app.get("/openapi.json", include_in_schema=False)
    def openapi(request: Request) -> Response:
        return SafeJson(describe(request.app))

    return app


def describe(app: FastAPI) -> dict[str, object]:
    """Return the OpenAPI document: FastAPI's own, with the problem's shape and how one proves who one is."""
    if app.openapi_schema is None:
        document = FastAPI.openapi(app)
        components = document.setdefault("components", {})
        schemas = components.setdefault("schemas", {})
        for model in (Problem, JobSpec):  # named by hand in routes
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
        components["securitySchemes"] = {
            "token": {"type": "http", "scheme": "bearer"},
            "session": {"type": "apiKey", "in": "cookie", "name": app.state.cookie},
        }
        document["security"] = [{"token": []}, {"session": []}]
        for methods in document["paths"].values():
            for operation in methods.values():  # every error is a problem, FastAPI's own shape is never sent
                operation.get("responses", {}).pop("422", None)
        document["paths"]["/healthz"]["get"]["security"] = []
        document["paths"]["/login"]["post"]["security"] = []
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        app.openapi_schema = document
    return app.openapi_schema
