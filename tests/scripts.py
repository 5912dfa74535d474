"""Scripts run as a user runs them, each in a process of its own, forked from one that has imported torch and all."""

import ctypes
import functools
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PR_SET_CHILD_SUBREAPER = 36
ENVIRONMENT = dict(os.environ)  # as conftest.py leaves it
# What Python and libraries read as they start, by how it begins: for another value a script needs a new Python
READ_EARLY = ("PYTHON", "LC_", "LANG", "HOME", "TMPDIR", "HF_", "XDG_", "TORCH_", "TRANSFORMERS_", "MPL", "OMP_")


class ForkServer:
    """A process of tests/fork_server.py. It ends with the tests, whose end of the connection is then closed."""

    def __init__(self, environment):
        self.connection, theirs = socket.socketpair()
        with theirs:
            # Pipes, as what most scripts get: Python decides by them how it buffers
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())], cwd=ROOT, env=environment,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, pass_fds=[theirs.fileno()])
        self.stream = self.connection.makefile("rwb")
        assert self.stream.readline() == b"ready\n", self.process.communicate()[1].decode()

    def fork(self, request, descriptors):
        """The number of a process that is a child of this one, with these as its streams."""
        adopt = ctypes.CDLL(None).prctl
        adopt(PR_SET_CHILD_SUBREAPER, 1)  # children of ours whose parents end become our own
        try:
            socket.send_fds(self.connection, [b"\n"], descriptors)
            self.stream.write(json.dumps(request).encode() + b"\n")
            self.stream.flush()
            return int(self.stream.readline())
        finally:
            adopt(PR_SET_CHILD_SUBREAPER, 0)


@functools.cache
def fork_server():
    return ForkServer(ENVIRONMENT)


class Forked(subprocess.Popen):
    """subprocess.Popen of Python, with a folder and an environment, but forked. `server`: a function."""

    def __init__(self, args, server, **options):
        self.server = server
        super().__init__(args, **options)

    def _execute_child(self, args, executable, preexec_fn, close_fds, pass_fds, cwd, env, startupinfo, creationflags,
                       shell, p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite, *others):
        streams = [number if given == -1 else given for number, given in enumerate((p2cread, c2pwrite, errwrite))]
        self.pid = self.server().fork({"args": args[1:], "folder": str(cwd), "environment": env}, streams)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)


def start(args, cwd=ROOT, env=None, server=fork_server, **options):
    """subprocess.Popen of `python <args>`, in the repository root unless `cwd` is another folder.

    A real process, with what a fresh one has but for the time that imports take. `server`: what forks it.
    """
    command, env = [sys.executable, *map(str, args)], dict(os.environ if env is None else env)
    changed = {name for name, _ in env.items() ^ ENVIRONMENT.items()}
    if server is fork_server and any(name.startswith(READ_EARLY) for name in changed):
        return subprocess.Popen(command, cwd=cwd, env=env, **options)
    return Forked(command, server, cwd=cwd, env=env, **options)


def run(args, timeout=300, input=None, **options):
    """subprocess.run of `python <args>`: its status, standard output and standard error, all as text."""
    pipes = {"stdin": None if input is None else subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with start(args, text=True, **{**pipes, **options}) as process:
        try:
            output, errors = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(process.args, process.returncode, output, errors)
