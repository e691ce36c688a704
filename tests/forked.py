"""Programs for tests that start many processes: `refseg`, and a `python` for `-c`. Every run is a fork of one process.

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
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLIENT = """#!{python} -IS
import json, os, signal, socket, sys
line = json.dumps([sys.argv, os.getcwd(), dict(os.environ)]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    socket.send_fds(server, [len(line).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(line)
    status = server.recv(1)
if not status:  # the fork was killed
    os.kill(os.getpid(), signal.SIGKILL)
sys.exit(status[0])
"""


@contextmanager
def programs(folder: Path) -> Iterator[Path]:
    """Puts `refseg` and `python` into `folder`, for as long as the context lasts."""
    address = str(folder / "socket")
    for name in ("refseg", "python"):
        (folder / name).write_text(CLIENT.format(python=sys.executable, address=address))
        (folder / name).chmod(0o755)
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}  # which torch reads when it is imported
    server = subprocess.Popen([sys.executable, __file__, address], stdout=subprocess.PIPE, env=environment)
    try:
        assert server.stdout
        assert server.stdout.readline() == b"ready\n"
        yield folder
    finally:
        server.kill()
        server.wait()


def _serve(address: str) -> None:
    import accelerate  # noqa: F401
    import torch

    import refseg_cli.engine.fsdp
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
    (program, *arguments), folder, environment = json.loads(client.makefile("rb").read(int.from_bytes(header, "big")))
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115
    status = _python(arguments) if Path(program).name == "python" else _refseg(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    client.sendall(bytes([status]))
    return status


def _refseg(arguments: list[str]) -> int:
    from refseg_cli.app import main

    return main(arguments)


def _python(arguments: list[str]) -> int:
    """`-c TEXT ARGUMENT...`."""
    option, text, *rest = arguments
    assert option == "-c"
    sys.argv = [option, *rest]
    try:
        exec(text, {"__name__": "__main__"})
    except SystemExit as end:
        return int(end.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    _serve(sys.argv[1])
