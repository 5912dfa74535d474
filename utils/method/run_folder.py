"""The folder of one training run: settings, log, and what else train.py writes there."""

import contextlib
import datetime
import json
import os
from pathlib import Path

from tqdm import tqdm

from utils.system import processes
from utils.system.errors import UserError
from utils.system.file_lock import lock_outputs
from utils.system.files import atomic_path, naming_errors, read_object, refuse_differing, remove, write_settings

# What may differ when a run goes on: where it is, how often it saves, and what leaves every number as it is.
FREE_SETTINGS = ("preset", "output_dir", "data_dir", "device", "debug", "overwrite", "dry_run", "checkpointing_steps",
                 "keep_checkpoints", "gradient_checkpointing", "num_workers")
NEW, BEGUN, FINISHED = "new", "begun", "finished"


class RunFolder:
    """outputs/<gesture>. A run is finished when its model folder is there, which comes last."""

    def __init__(self, folder):
        self.folder = Path(folder)
        self.config = self.folder / "config.json"
        self.feature = self.folder / "gesture_feature.npy"
        self.checkpoints = self.folder / "checkpoints"
        self.samples = self.folder / "samples"
        self.losses = self.folder / "losses.jsonl"
        self.loss_curves = self.folder / "losses.png"
        self.model = self.folder / "model"
        self.log_file = self.folder / "train.log"
        self.waiting = []  # lines of the log from before the run has begun, while an earlier one may still be there
        self.has_begun = False

    def written(self):
        """All that a run writes; the checkpoints only until it is done."""
        return [self.config, self.log_file, self.feature, self.checkpoints, self.samples, self.losses,
                self.loss_curves, self.model]

    def find(self, settings):
        """How far a run with these settings is here: NEW, BEGUN or FINISHED.

        UserError when the folder holds a run with other settings, or results without settings.
        """
        if not self.config.is_file():
            of_a_run = [self.checkpoints, self.model, self.samples, *self.own_features(settings)]
            if found := [path.name for path in of_a_run if path.exists()]:
                raise UserError(f"{self.folder} holds {' and '.join(found)} but no config.json, so the run "
                                "cannot go on; choose another --output_dir or add --overwrite")
            return NEW
        old = read_object(self.config)
        old, new = ({name: value for name, value in given.items() if name not in FREE_SETTINGS}
                    for given in (old, settings))
        refuse_differing(self.folder, old, new, "choose another --output_dir, or add --overwrite to start anew")
        return FINISHED if self.model.is_dir() else BEGUN

    def lock(self):
        """Context that keeps other runs out. UserError while one is in the folder."""
        return lock_outputs(self.folder) if processes.is_first() else contextlib.nullcontext()

    def begin(self, settings, overwrite=False):
        """Writes the settings; with `overwrite`, what an earlier run has written goes first.

        What would be taken for this run's goes in any case, unless it is in the settings as the run's own input.
        """
        stale = []
        if overwrite:
            stale += [self.config, self.checkpoints, self.model, self.losses, self.loss_curves, self.log_file]
        if overwrite or not self.config.is_file():
            stale += [self.samples, *self.own_features(settings)]
        for path in stale:
            remove(path)
        write_settings(self.config, settings)
        self.has_begun = True
        self.write_log()

    def own_features(self, settings):
        """The files of the gesture feature that Stage I writes; none if that feature is what the run is given."""
        given = settings.get("feature_npy_path")
        is_given = given and os.path.realpath(given) == os.path.realpath(self.feature)
        return [] if is_given else [self.feature, self.feature.with_suffix(".json")]

    def write_losses(self, losses):
        """{stage name: losses of its updates} as one JSON line per update."""
        with atomic_path(self.losses) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for stage, values in losses.items():
                for step, loss in enumerate(values, 1):
                    file.write(json.dumps({"stage": stage, "step": step, "loss": loss}) + "\n")

    def tidy(self, keep_checkpoints=False):
        """Removes the checkpoints of a finished run."""
        if not keep_checkpoints:
            remove(self.checkpoints)

    def log(self, message):
        """Prints a line and keeps it, with the time, in train.log; only the first of several processes does.

        The file is written from `begin` on.
        """
        if not processes.is_first():
            return
        self.waiting.append(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {message}\n")
        if self.has_begun:
            self.write_log()
        tqdm.write(message)

    def write_log(self):
        with naming_errors(self.log_file), open(self.log_file, "a", encoding="utf-8",
                                                errors="backslashreplace") as file:
            file.writelines(self.waiting)
        self.waiting.clear()
