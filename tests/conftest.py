"""Fixtures of all tests: one torch thread, a tiny pipeline folder, scripts run as a user runs them."""

import contextlib
import os
import socket
import subprocess
import sys
from pathlib import Path

# Two busy OpenMP threads on two busy cores are far slower than one; set before torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

import huggingface_hub
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.tiny_models import build_tiny_pipeline  # noqa: E402

torch.set_num_threads(1)


@contextlib.contextmanager
def without_rights():
    """A root user is one without rights inside; for others nothing changes."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextlib.contextmanager
def no_reader():
    """Inside, standard output is a pipe that nobody reads any more."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream, contextlib.redirect_stdout(stream):
        yield


@pytest.fixture(scope="session")
def tiny_pipeline(tmp_path_factory):
    """Folder of a randomly initialised Stable Diffusion: 32x32 images, 16 tokens of width 32. Read only."""
    return build_tiny_pipeline(tmp_path_factory.mktemp("tiny") / "pipeline")


@pytest.fixture
def asked(monkeypatch):
    """List of the connections that are tried, all of which fail; nothing else says that there is no network."""
    tried = []

    def refuse(*address, **options):
        tried.append(address)
        raise OSError("no network in this test")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture(scope="session")
def run_script():
    """Function(args, **options of subprocess.run): `python <args>` in the repository root."""

    def run(args, **options):
        command = [sys.executable, *map(str, args)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, **options)

    return run
