"""The game over HTTP: who is asking, what they may do, and which page answers. The one door to Starlette and uvicorn.

A player's link has a token behind the #; the page posts it once and gets a cookie that no script reads and no other
site sends. Every form carries a key that only its owner's pages know. Addresses name tasks by number, never files.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import socket
import sqlite3
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp as App
from starlette.types import Message, Receive, Scope, Send

from refseg_cli.annotate import pages
from refseg_cli.annotate.figures import figures_of, tables
from refseg_cli.annotate.game import Game, task_key
from refseg_cli.annotate.models import Opinions, agreement
from refseg_cli.annotate.pages import Form
from refseg_cli.annotate.players import Keys, Player
from refseg_cli.annotate.rules import REASONS, Refused, Role
from refseg_cli.annotate.store import Task
from refseg_cli.annotate.views import path_of_mask, photo_of
from refseg_cli.errors import RefsegError

LONGEST_FORM = 64 << 10  # bytes; a phrase and a few hundred objects
MOST_FIELDS = 5000
COOKIE_DAYS = 60
BACKLOG = 1024  # connections that wait
SECONDS_IDLE = 75  # that a connection is kept while its player thinks
SECONDS_TO_FINISH = 3  # for requests that run when the server is stopped
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer browsers would not say where a form comes from
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_WHOLE = re.compile(r"-?[0-9]{1,18}")
_FIXED = {"/game.css": "text/css; charset=utf-8", "/game.js": "text/javascript; charset=utf-8"}


@dataclass(frozen=True, slots=True)
class Asking:
    """Somebody with a valid cookie.  player: None for the host.  key: of their forms."""

    player: Player | None
    key: str


class _Table:
    """Routes and what they share.

    Args:
        origin: the address by which browsers reach the server, if it is not that of their requests' Host.
    """

    def __init__(
        self, game: Game, players: Sequence[Player], keys: Keys, opinions: Opinions | None, origin: str | None
    ) -> None:
        self.game, self.keys, self.opinions = game, keys, opinions
        self.origin = urlsplit(origin).netloc if origin else None
        # By digest: how long a look-up takes says nothing of the tokens.
        tokens = {keys.of_host(): None, **{keys.of_player(player.name): player for player in players}}
        self._asking = {_digest(token): Asking(player, keys.form(token)) for token, player in tokens.items()}

    # Who is asking

    def known(self, token: str) -> Asking | None:
        return self._asking.get(_digest(token))

    def player(self, request: Request, role: Role | None = None) -> tuple[Player, str]:
        """The player, and the key of their forms.

        Raises:
            HTTPException: nobody known, or one who has another part.
        """
        asking = self.known(request.cookies.get(self.keys.cookie, ""))
        if asking is None:
            raise HTTPException(401)
        if asking.player is None or not (role is None or asking.player.may(role)):
            raise HTTPException(403, "This page is for other players.")
        return asking.player, asking.key

    async def form(self, request: Request, key: str | None = None) -> dict[str, list[str]]:
        """The fields of a form that our own page has sent.

        Args:
            key: that it must carry; None for the one page that nobody has one for.

        Raises:
            HTTPException: it is too large, or comes from elsewhere.
        """
        site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
        here = {request.headers.get("host"), self.origin}
        if site not in (None, "same-origin", "none") or (origin and urlsplit(origin).netloc not in here):
            raise HTTPException(403, "This form comes from another site.")
        body = b""
        async for piece in request.stream():
            body += piece
            if len(body) > LONGEST_FORM:
                raise HTTPException(413, "This form is too large.")
        try:
            fields = parse_qs(body.decode("ascii"), keep_blank_values=True, max_num_fields=MOST_FIELDS)
        except ValueError as error:
            raise HTTPException(400, "This is no form.") from error
        if key is not None and not hmac.compare_digest(fields.get("key", [""])[0].encode(), key.encode()):
            raise HTTPException(403, "This form has expired. Go back to the start.")
        return fields

    # Pages

    async def join(self, request: Request) -> Response:
        if request.method != "POST":
            return HTMLResponse(pages.join())
        token = (await self.form(request)).get("token", [""])[0].strip()
        asking = self.known(token)
        if asking is None:
            return HTMLResponse(pages.join("This link is not, or no longer, one of this game."), 403)
        response = RedirectResponse("/" if asking.player else "/dashboard", 303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(
            self.keys.cookie, token, max_age=COOKIE_DAYS * 86400, httponly=True, samesite="strict", secure=secure
        )
        return response

    async def home(self, request: Request) -> Response:
        asking = self.known(request.cookies.get(self.keys.cookie, ""))
        if asking is not None and asking.player is None:
            return RedirectResponse("/dashboard", 303)
        player, _ = self.player(request)
        store = self.game.store

        def shown() -> str:
            waiting = store.waiting_for(player.name, self.game.gallery.splits)
            return pages.home(player, store.tally(player.name), waiting)

        return HTMLResponse(await run_in_threadpool(shown))

    async def annotate(self, request: Request) -> Response:
        player, key = self.player(request, "annotate")
        if request.method == "POST":
            return await run_in_threadpool(self._annotated, player, key, await self.form(request, key))

        def shown() -> str:
            task = self.game.to_annotate(player.name)
            return self._annotating(task, Form(key, task.id, note=request.query_params.get("note", "")))

        return HTMLResponse(await run_in_threadpool(shown))

    def _annotated(self, player: Player, key: str, fields: Mapping[str, Sequence[str]]) -> Response:
        task = self.game.owned(_number(fields, "task"), player.name, "annotate")
        targets, nothing = _chosen(fields)
        phrase = fields.get("phrase", [""])[0]
        try:
            self.game.annotate(task, targets, nothing, phrase)
        except Refused as refused:
            if task.outcome is not None:
                raise
            form = Form(key, task.id, str(refused), phrase=phrase, chosen=frozenset(targets), nothing=nothing)
            return HTMLResponse(self._annotating(task, form), 422)
        return self._after(task, pages.WRITTEN)

    def _annotating(self, task: Task, form: Form) -> str:
        return pages.annotate(form, self.game.view(task_key(task)), self.game.known(task), task.offers)

    async def skip(self, request: Request) -> Response:
        player, key = self.player(request, "annotate")
        fields = await self.form(request, key)
        await run_in_threadpool(self.game.store.skip, _number(fields, "task"), player.name)
        return RedirectResponse("/annotate", 303)

    async def validate(self, request: Request) -> Response:
        player, key = self.player(request, "validate")
        if request.method == "POST":
            return await run_in_threadpool(self._validated, player, key, await self.form(request, key))
        note = request.query_params.get("note", "")

        def shown() -> str:
            task = self.game.to_validate(player.name)
            if task is None:
                return pages.nothing_to_validate(player, note)
            return self._validating(task, Form(key, task.id, note=note))

        return HTMLResponse(await run_in_threadpool(shown))

    def _validated(self, player: Player, key: str, fields: Mapping[str, Sequence[str]]) -> Response:
        task = self.game.owned(_number(fields, "task"), player.name, "validate")
        targets, nothing = _chosen(fields)
        try:
            state = self.game.validate(task, targets, nothing)
        except Refused as refused:
            if self.game.store.open_task(player.name, "validate") != task:
                raise
            form = Form(key, task.id, str(refused), chosen=frozenset(targets), nothing=nothing)
            return HTMLResponse(self._validating(task, form), 422)
        return self._after(task, state)

    def _validating(self, task: Task, form: Form) -> str:
        assert task.sample is not None
        return pages.validate(form, self.game.view(task_key(task)), self.game.store.sample(task.sample).phrase)

    async def reject(self, request: Request) -> Response:
        player, key = self.player(request, "validate")
        fields = await self.form(request, key)

        def rejected() -> Response:
            task = self.game.owned(_number(fields, "task"), player.name, "validate")
            reason = fields.get("reason", [""])[0]
            if reason not in REASONS:
                return HTMLResponse(self._validating(task, Form(key, task.id, "Say why you reject the phrase.")), 422)
            return self._after(task, self.game.reject(task, reason))

        return await run_in_threadpool(rejected)

    def _after(self, task: Task, note: str) -> Response:
        """Where a player goes when something is saved."""
        place = f"/opinion/{task.id}" if self.opinions else f"/{task.role}"
        return RedirectResponse(f"{place}?note={note}", 303)

    async def opinion(self, request: Request) -> Response:
        player, _ = self.player(request)
        if self.opinions is None:
            raise HTTPException(404)
        note = request.query_params.get("note", "")
        return HTMLResponse(
            await run_in_threadpool(self._opinion, self.opinions, player, request.path_params["task"], note)
        )

    def _opinion(self, opinions: Opinions, player: Player, task_id: int, note: str) -> str:
        task = self.game.owned(task_id, player.name)
        if task.outcome != "done" or task.sample is None:
            raise HTTPException(404)
        sample, record = self.game.store.sample(task.sample), self.game.gallery.record(task_key(task))
        chosen = sample.targets
        if task.role == "validate":
            own = next(judged.answer for judged in sample.answers if judged.player == player.name)
            chosen = tuple(own.targets)
        mask, found = opinions.of(sample.id, record)
        shape = path_of_mask(mask) if found else None
        seen = pages.Opinion(opinions.name, shape, agreement(mask, found, chosen, record))
        view = self.game.view(task_key(task))
        return pages.opinion(seen, view, sample.phrase, chosen, task=task.id, on=f"/{task.role}", note=note)

    async def picture(self, request: Request) -> Response:
        player, _ = self.player(request)

        def read() -> tuple[bytes, str]:
            task = self.game.owned(request.path_params["task"], player.name)
            return photo_of(self.game.gallery.record(task_key(task)))

        data, media_type = await run_in_threadpool(read)
        return Response(data, media_type=media_type)

    async def dashboard(self, request: Request) -> Response:
        asking = self.known(request.cookies.get(self.keys.cookie, ""))
        if asking is None:
            raise HTTPException(401)
        if asking.player is not None:
            raise HTTPException(403, "This page is for the host of the game.")

        def shown() -> str:
            gallery = self.game.gallery
            figures = figures_of(self.game.store.samples(), gallery.objects)
            about = f"{gallery.about['dataset']}, {', '.join(gallery.splits)}"
            return pages.dashboard(about, (figures.pictures, len(gallery.keys)), tables(figures))

        return HTMLResponse(await run_in_threadpool(shown))


def build(
    game: Game,
    players: Sequence[Player],
    keys: Keys,
    *,
    opinions: Opinions | None = None,
    origin: str | None = None,
) -> App:
    """The application.

    Args:
        opinions: a model's, shown to players after they have handed something in; None for none.
        origin: the address by which browsers reach it, if a proxy changes the Host of their requests.
    """
    table = _Table(game, players, keys, opinions, origin)
    routes = [
        Route("/", table.home),
        Route("/join", table.join, methods=["GET", "POST"]),
        Route("/annotate", table.annotate, methods=["GET", "POST"]),
        Route("/skip", table.skip, methods=["POST"]),
        Route("/validate", table.validate, methods=["GET", "POST"]),
        Route("/reject", table.reject, methods=["POST"]),
        Route("/opinion/{task:int}", table.opinion),
        Route("/picture/{task:int}", table.picture),
        Route("/dashboard", table.dashboard),
        *(Route(path, _fixed(path)) for path in _FIXED),
    ]
    handlers: dict[Any, Any] = {HTTPException: _failed, Refused: _refused}
    handlers |= {RefsegError: _broken, sqlite3.Error: _unsaved}
    return _guarded(Starlette(routes=routes, exception_handlers=handlers))


def _fixed(path: str) -> Callable[[Request], Awaitable[Response]]:
    data = (files("refseg_cli.annotate") / path.strip("/")).read_bytes()

    async def send(request: Request) -> Response:
        return Response(data, media_type=_FIXED[path], headers={"Cache-Control": "no-cache"})

    return send


def _guarded(app: App) -> App:
    """With the headers that keep the pages to themselves on every answer, faults included."""

    async def guarded(scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = {name.lower() for name, _ in message["headers"]}
                own = ((name.lower().encode(), value.encode()) for name, value in HEADERS.items())
                message["headers"] = [*message["headers"], *(header for header in own if header[0] not in given)]
            await send(message)

        await app(scope, receive, sending)

    return guarded


async def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 401:
        return HTMLResponse(pages.join("Open your link again: this browser is not in the game."), 401)
    told = error.detail if error.status_code in (400, 403, 413) else "There is no such page."
    return HTMLResponse(pages.message("That did not work", told), error.status_code, headers=error.headers)


async def _refused(request: Request, error: Exception) -> Response:
    return HTMLResponse(pages.message("That did not work", str(error)), 409)


async def _broken(request: Request, error: Exception) -> Response:
    return HTMLResponse(pages.message("That did not work", "The picture cannot be shown. Tell the host."), 500)


async def _unsaved(request: Request, error: Exception) -> Response:
    return HTMLResponse(pages.message("Not saved", "The game could not be written. Go back and try again."), 503)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _number(fields: Mapping[str, Sequence[str]], name: str) -> int:
    """Raises Refused: there is no such number."""
    return _whole(fields.get(name, [""])[0])


def _whole(value: str) -> int:
    """A whole number as the game's file can hold it."""
    if not _WHOLE.fullmatch(value):
        raise Refused("This form is broken. Go back to the start.")
    return int(value)


def _chosen(fields: Mapping[str, Sequence[str]]) -> tuple[list[int], bool]:
    """Ids of objects, and whether nothing is meant."""
    return [_whole(value) for value in fields.get("target", ())], "nothing" in fields


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; port 0 for any that is free.

    Raises:
        RefsegError: the address is taken, or none of this machine's.
    """
    try:
        [(family, kind, protocol, _, address), *_] = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        # Without the protocol asyncio does not see that it is TCP, leaves Nagle's algorithm on, and answers take 40 ms.
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
            bound.listen(BACKLOG)  # who comes before the server answers, waits
        except OSError:
            bound.close()
            raise
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RefsegError(f"cannot listen on {host}, port {port}: {reason}", hint="see --host and --port") from error
    return bound


def run(app: App, bound: socket.socket) -> None:
    """Serve until a signal says to stop: requests that run are finished, and nothing is logged but failures."""
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_keep_alive=SECONDS_IDLE,
        timeout_graceful_shutdown=SECONDS_TO_FINISH,
    )
    uvicorn.Server(config).run(sockets=[bound])
