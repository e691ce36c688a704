"""`refseg` on a terminal and in pipes: each run is a fork of the test's process, which has everything imported."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from refseg_cli.app import main

STREAMS = ("stdin", "stdout", "stderr")
ESCAPE = re.compile(rb"\x1b\[([0-9;?]*)([A-Za-z])")  # ANSI: parameters, and a letter for what to do; m is for colour
FAILED = 99  # of a run that raised


@dataclass(frozen=True)
class Ran:
    """status: of the process.  screen: all that the terminal got.  stdout, stderr: of those that were pipes."""

    status: int
    screen: bytes
    stdout: bytes
    stderr: bytes

    @property
    def lines(self) -> list[str]:
        """What was written to the terminal, without escapes, cut wherever the cursor goes back to the left."""
        return re.split(r"[\r\n]+", ESCAPE.sub(b"", self.screen).decode())


def codes(written: bytes) -> set[bytes]:
    """The letters of the escapes in it."""
    return {kind for _, kind in ESCAPE.findall(written)}


def colours(written: bytes) -> set[bytes]:
    """The SGR parameters in it that set a colour."""
    of = {part for parameters, kind in ESCAPE.findall(written) if kind == b"m" for part in parameters.split(b";")}
    return {part for part in of if re.fullmatch(rb"[349][0-7]|10[0-7]|[34]8", part)}


def run(
    words: Sequence[str],
    *,
    terminal: Collection[str] = STREAMS,
    columns: int = 80,
    given: bytes = b"",
    closed: str = "",
    interrupt_at: bytes = b"",
    env: Mapping[str, str] | None = None,
) -> Ran:
    """Run the command line `words`.

    Args:
        terminal: the streams that are a terminal, of that many `columns`; the others are pipes.
        given: what comes down the pipe to stdin.
        closed: the stream whose pipe nobody reads.
        interrupt_at: Ctrl-C is typed when this is on the screen.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    pipes = {name: os.pipe() for name in STREAMS}
    child = os.fork()
    if child == 0:
        status = FAILED
        try:
            os.setsid()
            if terminal:  # which it would otherwise leave at once, and be hung up on
                fcntl.ioctl(theirs, termios.TIOCSCTTY, 0)
            for number, name in enumerate(STREAMS):
                os.dup2(theirs if name in terminal else pipes[name][number > 0], number)
            os.closerange(3, 256)
            os.environ.update({"TERM": "xterm-256color", **(env or {})})
            sys.stdin, sys.stdout, sys.stderr = (os.fdopen(n, "r" if n == 0 else "w") for n in range(3))
            status = main(words)
        finally:
            os._exit(status)
    os.close(theirs)
    os.write(pipes["stdin"][1], given)
    os.close(pipes["stdin"][0])
    os.close(pipes["stdin"][1])
    for name in STREAMS[1:]:
        os.close(pipes[name][1])
    if closed:
        os.close(pipes[closed][0])
    written = {ours: b""} | {pipes[name][0]: b"" for name in STREAMS[1:] if name != closed}
    waiting = set(written)
    while waiting:
        for number in select.select(list(waiting), [], [])[0]:
            try:
                piece = os.read(number, 1 << 16)
            except OSError:  # what Linux says where a terminal has been left by all
                piece = b""
            written[number] += piece
            if not piece:
                waiting.discard(number)
                os.close(number)
        if interrupt_at and interrupt_at in written[ours]:
            os.write(ours, b"\x03")
            interrupt_at = b""
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return Ran(status, written[ours], *(written.get(pipes[name][0], b"") for name in STREAMS[1:]))
