"""`refseg` for shell scripts under test: a program on PATH whose every run is a fork of one process.

The forked process has the heavy imports behind it, so that a page with twenty commands takes seconds, and each command
still has its own process, folder, environment, pipes and exit status.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, socket, sys
line = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(line).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(line)
    sys.exit(server.recv(1)[0])
"""


@contextmanager
def program(folder: Path, name: str = "refseg") -> Iterator[Path]:
    """Puts the program `name` into `folder`, for as long as the context lasts."""
    address = str(folder / "socket")
    (folder / name).write_text(CLIENT.format(python=sys.executable, address=address))
    (folder / name).chmod(0o755)
    server = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE, env={**os.environ})
    try:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield folder / name
    finally:
        server.kill()
        server.wait()


def _serve(address: str) -> None:
    import accelerate  # noqa: F401
    import torch

    import refseg_cli.engine.train
    import refseg_cli.evaluation.report
    import refseg_cli.segmenters.onnx  # noqa: F401
    from refseg_cli import app

    torch.set_num_threads(1)
    app.app  # noqa: B018 - every command, imported
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the forks
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)  # noqa: T201
        while True:
            client, _ = server.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                server.close()
                os._exit(_answer(client))
            client.close()


def _answer(client: socket.socket) -> int:
    header, streams, _, _ = socket.recv_fds(client, 4, 3)
    arguments, folder, environment = json.loads(client.makefile("rb").read(int.from_bytes(header, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    from refseg_cli.app import main

    status = main(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    client.sendall(bytes([status]))
    return status


if __name__ == "__main__":
    _serve(sys.argv[1])
