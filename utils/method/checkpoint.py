"""Checkpoints, whole or absent: safetensors and JSON in `step-<number>` folders, the newest two kept."""

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from utils.method.optimizers import load_optimizer_tensors, optimizer_tensors
from utils.system import processes
from utils.system.digests import sha256
from utils.system.errors import UserError
from utils.system.files import atomic_path, read_json, remove, to_json, write_json

STATE_FILE = "checkpoint.json"
KEPT = 2
BLOCK = 1 << 24  # bytes read at once for a checksum


@dataclass
class Checkpoint:
    """One checkpoint whose files have been compared with their checksums."""

    path: Path
    state: dict  # what `write` was given, with "step", "files", "pieces" and the digest of all that

    def load(self, part):
        """The tensors of one part on the CPU; {} if the checkpoint has no such part."""
        name = f"{part}.safetensors"
        return load_file(self.path / name) if name in self.state["files"] else {}

    def load_piece(self, name):
        """The tensors of one piece on the CPU."""
        return load_file(self.path.parent / f"{name}.safetensors")


class CheckpointFolder:
    """The checkpoints of one run.

    A checkpoint has parts of its own, written anew each time, and shares pieces with later ones: finished
    work that is written once. It lists size and checksum of all of them, so that damage is seen before
    anything is loaded.
    """

    def __init__(self, folder, warn=print):
        self.folder = Path(folder)
        self.warn = warn
        self.pieces = {}  # name -> fingerprint, of all pieces that the next checkpoint refers to
        self.damaged = set()  # steps of checkpoints that were found damaged

    def write_piece(self, name, tensors):
        """Writes tensors ({key: tensor}) once; every checkpoint from now on counts on them."""
        path = self.folder / f"{name}.safetensors"
        with atomic_path(path) as temporary:
            write_tensors(temporary, tensors)
            fingerprint = take_fingerprint(temporary)
        self.pieces[name] = fingerprint

    def write(self, step, parts, state):
        """Writes `step-<number>` from parts ({name: {key: tensor}}) and `state` (JSON), then drops older ones.

        `state` says at least the "stage". The folder appears by one rename, after everything in it
        has reached the disk. When the disk is full, an OSError names it, and what was there before is untouched.
        """
        with atomic_path(self.path_of(step)) as temporary:
            temporary.mkdir()
            files = {}
            for name, tensors in parts.items():
                path = temporary / f"{name}.safetensors"
                write_tensors(path, tensors)
                files[path.name] = take_fingerprint(path)
            state = {**state, "step": step, "files": files, "pieces": self.pieces}
            write_json(temporary / STATE_FILE, {**state, "sha256": digest_state(state)})
        self.damaged.discard(step)

        # A newer one is left only when it was found damaged and the run went on from an older one.
        older = [number for number in self.steps() if number < step and number not in self.damaged]
        for number in set(self.steps()) - {step} - set(older[-(KEPT - 1):]):
            remove(self.path_of(number))

    def newest(self):
        """The newest whole checkpoint, or None. A damaged one is warned of and passed over; leftovers go."""
        for leftover in self.folder.rglob(".tmp-*") if processes.is_first() else ():
            remove(leftover)
        steps = self.steps()
        for step in reversed(steps):
            try:
                state = self.check(step)
            except (UserError, FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
                self.damaged.add(step)
                next_one = "starting anew" if step == steps[0] else "going back to the one before"
                self.warn(f"warning: {self.path_of(step)} is damaged ({error}); {next_one}")
                continue
            self.pieces = state["pieces"]
            return Checkpoint(self.path_of(step), state)
        return None

    def check(self, step):
        """The state of a checkpoint. UserError or OSError when a file is damaged or missing."""
        path = self.path_of(step)
        state = read_json(path / STATE_FILE)
        if not isinstance(state, dict) or state.get("step") != step or state.get("sha256") != digest_state(state):
            raise UserError(f"{STATE_FILE} is not what was written")
        files = {path / name: fingerprint for name, fingerprint in state["files"].items()}
        for name, fingerprint in state["pieces"].items():
            files[self.folder / f"{name}.safetensors"] = fingerprint
        for file, fingerprint in files.items():
            if take_fingerprint(file) != fingerprint:
                raise UserError(f"{file.name} is not what was written")
        return state

    def steps(self):
        """The step numbers of all checkpoints, ascending."""
        found = (re.fullmatch(r"step-(\d{7,})", path.name) for path in self.folder.glob("step-*"))
        return sorted(int(match[1]) for match in found if match)

    def path_of(self, step):
        return self.folder / f"step-{step:07d}"


def digest_state(state):
    """Digest of a state as it comes back from JSON, without the digest in it."""
    plain = json.loads(to_json(state))
    return sha256([to_json({name: value for name, value in plain.items() if name != "sha256"})])


def write_tensors(path, tensors):
    """Writes {key: tensor} as safetensors."""
    # First to the CPU: a contiguous copy of channels_last weights would stand beside them on the GPU
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, path)


def take_fingerprint(path):
    """[size in bytes, CRC-32] of a file: enough to see a cut or a flipped bit, at a gigabyte per second."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            checksum = zlib.crc32(block, checksum)
        return [file.tell(), checksum]


def stage_parts(stage):
    """All that a Stage of three_stage.py needs to go on, as parts of a checkpoint."""
    weights = stage.denoiser.trainable_tensors()
    parts = {"weights": weights, "optimizer": optimizer_tensors(stage.optimizer)}
    if stage.residual is not None:
        parts["residual"] = {"residual": stage.residual}
    if stage.average is not None:
        parts["average"] = dict(zip(weights, stage.average.averages, strict=True))
    return {name: tensors for name, tensors in parts.items() if tensors}


@torch.no_grad()
def restore_stage(stage, accelerator, checkpoint):
    """Puts back what `stage_parts` gave, and the state of the gradient scaler."""
    for name, tensors in stage_parts(stage).items():
        if name != "optimizer":
            saved = checkpoint.load(name)
            for key, tensor in tensors.items():
                tensor.copy_(saved[key])
    load_optimizer_tensors(stage.optimizer, checkpoint.load("optimizer"))
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(checkpoint.state["scaler"])
