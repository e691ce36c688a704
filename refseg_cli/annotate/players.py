"""Who plays, and the secret words by which the server knows them."""

from __future__ import annotations

import base64
import csv
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from refseg_cli.annotate.rules import Role
from refseg_cli.errors import RefsegError

ROLES: dict[str, tuple[Role, ...]] = {
    "annotator": ("annotate",),
    "validator": ("validate",),
    "both": ("annotate", "validate"),
}
LONGEST_NAME = 60
TOKEN_BYTES = 16


@dataclass(frozen=True, slots=True)
class Player:
    """Somebody who plays.  role: a key of `ROLES`."""

    name: str
    role: str = "both"

    def may(self, role: Role) -> bool:
        return role in ROLES[self.role]


def choose_players(text: str) -> tuple[Player, ...]:
    """The players that ``--players`` asks for: those of a file, or so many without names.

    Raises:
        RefsegError: no such file, or it names nobody as it should.
    """
    if text.isascii() and text.isdigit():
        if not 1 <= int(text) <= 1000:
            raise RefsegError(f"--players {text}: from 1 to 1000 players", hint="or a file of names")
        return tuple(Player(f"player-{n}") for n in range(1, int(text) + 1))
    return read_players(Path(text))


def read_players(path: Path) -> tuple[Player, ...]:
    """The players of a file: a name on each line, and after a comma, if wanted, what the player does.

    Raises:
        RefsegError: no such file, no names, a name twice, or an unknown role.
    """
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except OSError as error:
        raise RefsegError(f"{path}: {error.strerror}", hint="--players is a file of names, or a number") from error
    except UnicodeDecodeError as error:
        raise RefsegError(f"{path}: not UTF-8 text", hint="one name on each line") from error
    players: list[Player] = []
    for number, line in enumerate(lines, start=1):
        if line.strip() and not line.lstrip().startswith("#"):
            players.append(_player(line, f"{path}, line {number}", players))
    if not players:
        raise RefsegError(f"{path}: names no player", hint="one name on each line, e.g. Ann, annotator")
    return tuple(players)


def _player(line: str, where: str, earlier: Sequence[Player]) -> Player:
    try:
        cells = next(csv.reader([line], skipinitialspace=True, strict=True))
    except csv.Error as error:
        raise RefsegError(f"{where}: {error}", hint="e.g. Ann, annotator; quotes come in pairs") from error
    name, *more = (" ".join(cell.split()) for cell in cells)
    role = more[0].lower() if more and more[0] else "both"
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise RefsegError(f"{where}: not a name", hint=f"up to {LONGEST_NAME} visible characters")
    if role not in ROLES or len(more) > 1:
        raise RefsegError(f"{where}: {name} is {', '.join(more)}", hint=f"a role is one of: {', '.join(ROLES)}")
    if any(name.casefold() == other.name.casefold() for other in earlier):
        raise RefsegError(f"{where}: {name} is there twice", hint="give each player a name of their own")
    return Player(name, role)


class Keys:
    """Tokens made of a game's secret, so that none has to be stored and a restarted server knows them.

    Args:
        secret: random bytes that stay with the game.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of_player(self, name: str) -> str:
        return self._made("player", name)

    def of_host(self) -> str:
        return self._made("host", "")

    def form(self, token: str) -> str:
        """What the forms of the token's owner carry, so that no other site can send one in their name."""
        return self._made("form", token)

    @property
    def cookie(self) -> str:
        """The cookie's name: browsers share cookies between all ports of a machine, and so between games."""
        return f"refseg_{hashlib.sha256(self._secret).hexdigest()[:8]}"

    def _made(self, purpose: str, text: str) -> str:
        digest = hmac.new(self._secret, f"{purpose}\0{text}".encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest[:TOKEN_BYTES]).decode("ascii").rstrip("=")
