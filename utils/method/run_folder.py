"""The folder of one training run: settings, log, and what else train.py writes there."""

import datetime
import json
import os
from pathlib import Path

from tqdm import tqdm

from utils.method.presets import LOADED_SETTINGS, bound_settings
from utils.system import processes
from utils.system.errors import UserError, warn
from utils.system.file_lock import lock_outputs
from utils.system.files import (
    atomic_path,
    differing_settings,
    naming_errors,
    read_json,
    remove,
    write_settings,
)


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

    @property
    def is_finished(self):
        return self.config.is_file() and self.model.is_dir()

    @property
    def is_begun(self):
        return self.config.is_file()

    def check(self, settings):
        """UserError when the folder holds a run with other settings, or results without settings.

        LOADED_SETTINGS are compared as soon as they are among `settings`.
        """
        if not self.config.is_file():
            of_a_run = [self.checkpoints, self.model, self.samples, *self.own_features(settings)]
            if found := [path.name for path in of_a_run if path.exists()]:
                raise UserError(f"{self.folder} holds {' and '.join(found)} but no config.json, so the run "
                                "cannot go on; choose another --output_dir or add --overwrite")
            return
        old = read_json(self.config)
        if not isinstance(old, dict):
            raise UserError(f"{self.config} holds no settings; choose another --output_dir or --overwrite")
        old = {name: value for name, value in old.items() if name in settings or name not in LOADED_SETTINGS}
        if differing := differing_settings(bound_settings(old), bound_settings(settings)):
            raise UserError(f"{self.folder} holds a run with other settings ({'; '.join(differing)}); "
                            "choose another --output_dir, or add --overwrite to start anew")

    def lock(self):
        """Context that keeps other runs out. UserError while one is in the folder."""
        return lock_outputs(self.folder)

    def begin(self, settings, overwrite=False):
        """Writes the settings; with `overwrite`, what an earlier run has written goes first.

        What would be taken for this run's goes in any case, unless it is in the settings as the run's own input.
        """
        stale = []
        if overwrite:
            stale += [self.config, self.checkpoints, self.model, self.losses, self.loss_curves, self.log_file]
        if overwrite or not self.is_begun:
            stale += [self.samples, *self.own_features(settings)]
        for path in stale:
            self.remove(path)
        write_settings(self.config, settings)
        self.has_begun = True
        self.write_log()

    def own_features(self, settings):
        """The files of the gesture feature that Stage I writes; none if that feature is what the run is given."""
        given = settings.get("feature_npy_path")
        is_given = given and os.path.realpath(given) == os.path.realpath(self.feature)
        return [] if is_given else [self.feature, self.feature.with_suffix(".json")]

    def remove(self, path):
        """Removes a file or a folder; what a link leads to stays, with a warning."""
        if path.is_symlink():
            warn(f"{path} was a link; what it leads to is left as it is")
        remove(path)

    def write_losses(self, losses):
        """{stage name: losses of its updates} as one JSON line per update."""
        with atomic_path(self.losses) as temporary, open(temporary, "w", encoding="utf-8") as file:
            for stage, values in losses.items():
                for step, loss in enumerate(values, 1):
                    file.write(json.dumps({"stage": stage, "step": step, "loss": loss}) + "\n")

    def tidy(self, keep_checkpoints=False):
        """Removes the checkpoints of a finished run."""
        if self.checkpoints.is_dir() and not keep_checkpoints:
            self.remove(self.checkpoints)

    def log(self, message):
        """Prints a line and keeps it, with the time, in train.log; only the first of several processes does.

        The file is written from `begin` on.
        """
        if not processes.is_first():
            return
        try:
            tqdm.write(message)
        finally:
            self.waiting.append(f"{datetime.datetime.now():%Y-%m-%d %H:%M:%S} {message}\n")
            if self.has_begun:
                self.write_log()

    def write_log(self):
        if self.log_file.is_fifo():  # would wait for a reader
            raise UserError(f"{self.log_file} is a pipe; move it away")
        with naming_errors(self.log_file), open(self.log_file, "ab") as file:
            for line in self.waiting:
                file.write(line.encode(errors="backslashreplace"))  # an undecodable path may be in it
        self.waiting.clear()
