"""A journal of finished work, from which a killed run goes on: JSON lines, the settings first."""

import json
import os
from pathlib import Path

from utils.system import errors, files


class Journal:
    """One file, with what it holds in `records`. To be written by whoever has the lock of the outputs.

    With `anew` the work goes to <name>.new.jsonl, which takes the place of the file by `finish`: what --overwrite
    replaces stays until all of the new is there. A killed run goes on from that as well.
    """

    def __init__(self, path, writer, parse, anew=False):
        """Reads what is there; parse(row) gives the records {key: value} of a row.

        UserError that names the line and the `writer` where parse raises LookupError, TypeError or ValueError.
        """
        self.final, self.parse, self.anew = Path(path), parse, anew
        self.path = self.final.with_suffix(f".new{self.final.suffix}") if anew else self.final
        self.records, self.settings = {}, None  # None: there are none yet
        data = self.path.read_bytes() if self.path.exists() else b""
        self.size = data.rfind(b"\n") + 1  # what follows was cut off while it was written
        for number, line in enumerate(data[:self.size].split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                if number == 1:
                    self.settings = dict(row["settings"])
                else:
                    self.records |= parse(row)
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                remedy = "delete it" if anew else "restore the file, or start anew with --overwrite"
                raise errors.UserError(f"{self.path}, line {number}: not what {writer} writes; {remedy}") from error

    def check(self, settings):
        """UserError when the file was written with other values of these settings; with `anew` it is dropped then."""
        known = {name: value for name, value in (self.settings or settings).items() if name in settings}
        try:
            files.refuse_differing(self.path, known, settings, "give those again, or start anew with --overwrite")
        except errors.UserError:
            if not self.anew:
                raise
            self.records.clear()
            self.settings, self.size = None, 0

    def append(self, settings, row):
        """Adds a row; before the first one the settings, unless they are there."""
        if self.size is not None and self.path.exists():
            os.truncate(self.path, self.size)
        if self.settings is None:
            files.append_row(self.path, {"settings": settings})
        self.settings, self.size = settings, None  # None: nothing is to be cut off any more
        files.append_row(self.path, row)
        self.records |= self.parse(row)

    def sync(self):
        """Returns when all rows are on the disk."""
        with files.naming_errors(self.path), open(self.path, "rb") as file:
            os.fsync(file.fileno())

    def finish(self):
        """To be called when all that was made from the records is there."""
        if self.anew:
            self.sync()
            os.replace(self.path, self.final)
