"""What the host of a game does: begin one or go on with it, look at it, take it out and in."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from refseg_cli.annotate.figures import Figures, figures_of
from refseg_cli.annotate.gallery import Gallery, check_same, open_gallery
from refseg_cli.annotate.game_file import begin_game, explained
from refseg_cli.annotate.players import Keys, Player
from refseg_cli.annotate.raw import Exported, Imported, export, import_
from refseg_cli.annotate.store import Store
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent

if TYPE_CHECKING:
    from refseg_cli.annotate.server import App

ANYWHERE = ("0.0.0.0", "::")  # addresses that are no place to send a browser to


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """A game to serve.

    data, images, splits: as in `gallery.open_gallery`.  out: the game's folder.
    url: the address by which players reach the server; None for that of host and port.
    model: whose opinion players see after they have handed something in; None for none.  device: that it runs on.
    generate: offer generated phrases.
    """

    data: str
    out: Path
    players: tuple[Player, ...]
    images: Path | None = None
    splits: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 8765
    url: str | None = None
    model: str | None = None
    device: str = "auto"
    generate: bool = False


@dataclass(frozen=True, slots=True)
class Hosted:
    """A game that is ready to be served.

    url: its address.  host_link: to the dashboard.  links: of each player.  pictures: how many there are.
    """

    app: App
    socket: socket.socket
    store: Store
    url: str
    host_link: str
    links: tuple[tuple[Player, str], ...]
    pictures: int

    def serve(self) -> None:
        """Until a signal says to stop."""
        from refseg_cli.annotate.server import run

        try:
            run(self.app, self.socket)
        finally:
            self.socket.close()
            self.store.close()


def prepare_to_serve(request: ServeRequest) -> Hosted:
    """Open or begin a game and bind its address; nobody is answered yet.

    Raises:
        RefsegError: missing packages, data that is not there or not that of the game, a model that is not there, or an
            address that is taken.
    """
    try:
        from refseg_cli.annotate import server
    except ImportError as error:
        raise RefsegError(f"the annotation game needs {error.name}", hint="pip install 'refseg[annotate]'") from error
    from refseg_cli.annotate.game import Game
    from refseg_cli.annotate.models import Opinions, Phrases

    if request.url is not None and not _is_address(request.url):
        raise RefsegError(f"--url {request.url}: not an address", hint="e.g. https://game.example.org")
    gallery = open_gallery(request.data, images=request.images, splits=request.splits)
    begin_game(request.out, gallery.about)
    store = Store(request.out)
    with explained(request.out):
        check_same(gallery, store.about())
        keys = Keys(store.secret())
    opinions = None
    if request.model is not None:
        from refseg_cli.segmenters.choice import open_segmenter

        opinions = Opinions(open_segmenter(request.model, device=request.device), store)
    game = Game(store, gallery, generate=Phrases(gallery.categories) if request.generate else None)
    bound = server.listen(request.host, request.port)
    url = (request.url or _address(request.host, bound.getsockname()[1])).rstrip("/")
    return Hosted(
        app=server.build(game, request.players, keys, opinions=opinions, origin=request.url),
        socket=bound,
        store=store,
        url=url,
        host_link=f"{url}/join#{keys.of_host()}",
        links=tuple((player, f"{url}/join#{keys.of_player(player.name)}") for player in request.players),
        pictures=len(gallery.keys),
    )


def _is_address(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def _address(host: str, port: int) -> str:
    name = socket.gethostname() if host in ANYWHERE else f"[{host}]" if ":" in host else host
    return f"http://{name}:{port}"


@contextmanager
def opened(folder: Path, *, data: str | None = None, images: Path | None = None) -> Iterator[tuple[Store, Gallery]]:
    """A game that was begun earlier, with its pictures, while the block lasts.

    Args:
        data, images: where they lie now, if they have been moved.

    Raises:
        RefsegError: there is no game, its file is damaged, or its pictures are gone.
    """
    with explained(folder), closing(Store(folder)) as store:
        about = store.about()
        if data is None:
            data, images = about["data"], Path(about["images"]) if about["images"] else None
        gallery = open_gallery(data, images=images, splits=about["splits"])
        check_same(gallery, about)
        yield store, gallery


def export_game(
    folder: Path, out: Path, *, data: str | None = None, images: Path | None = None, progress: Progress = silent
) -> Exported:
    """See `raw.export`; other arguments as of `opened`."""
    with opened(folder, data=data, images=images) as (store, gallery):
        return export(store, gallery, out, progress=progress)


def import_into_game(folder: Path, root: Path, *, data: str | None = None, images: Path | None = None) -> Imported:
    """See `raw.import_`; other arguments as of `opened`."""
    with opened(folder, data=data, images=images) as (store, gallery):
        return import_(store, gallery, root)


def look_at_game(folder: Path, *, data: str | None = None, images: Path | None = None) -> Figures:
    """The game in figures; arguments as of `opened`."""
    with opened(folder, data=data, images=images) as (store, gallery):
        return figures_of(store.samples(), gallery.objects)
