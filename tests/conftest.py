"""Fixtures of all tests: one torch thread, a tiny pipeline folder, scripts run as a user runs them."""

import contextlib
import ctypes
import os
import signal
import socket
import sys
from pathlib import Path

# Two busy OpenMP threads on two busy cores are far slower than one; set before torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["MPLBACKEND"] = "agg"  # as scripts that run in this process set it

import huggingface_hub
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
# A shell lets background jobs ignore Ctrl-C, and what they start does too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

from tests import scripts  # noqa: E402
from tests.scripts import ROOT  # noqa: E402, F401
from tests.tiny_models import build_tiny_pipeline  # noqa: E402

torch.set_num_threads(1)


@contextlib.contextmanager
def without_rights():
    """Inside, the modes of files bind a root user too; for others nothing changes.

    Its own files stay its own (another user might not even read Python's library): Linux' capabilities
    CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, bits 1 and 2, are laid down (man 2 capset).
    """
    libc, header, rights = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, rights) == 0
    fewer = type(rights)(rights[0] & ~0b110, *rights[1:])  # the first number is what is in force
    assert libc.capset(header, fewer) == 0
    try:
        yield
    finally:
        assert libc.capset(header, rights) == 0


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
    return scripts.run


# Files that take longest, first: begun last, one of them would keep a single process busy while the others wait
LONGEST = ("processes", "train", "pipeline", "finger_states", "captioners", "full_disk", "killed_training",
           "training_helps", "cal_fid_kid", "image_generation", "feature_network")


def pytest_collection_modifyitems(items):
    order = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
