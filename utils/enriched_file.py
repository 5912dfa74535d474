"""The enriched captions of one captioner in data/<gesture>/<split>: a journal, written line by line, then the list.

<captioner>_enriched.jsonl begins with the settings; every further line is the row of one finished caption.
<captioner>_enriched.txt is written from it when all are done, whole, in the order of the captions.
"""

import contextlib
import hashlib
import json
import os
from pathlib import Path

from utils import cli
from utils.enrichment import check_coverage
from utils.enrichment_rules import has_phrase_once
from utils.file_lock import lock_file
from utils.images import read_aligned, read_lines


class EnrichedFile:
    """`captions` are the lines of the captioner, `rows` the finished ones by line number, from 1."""

    def __init__(self, folder, captioner, settings, overwrite=False):
        """UserError when captions and file names do not fit, or there are rows that were made otherwise."""
        self.path, self.journal = (Path(folder, f"{captioner}_enriched.{kind}") for kind in ("txt", "jsonl"))
        self.default_report = Path(folder, f"{captioner}_enriched_report.jsonl")
        names, captions = (Path(folder, f"{captioner}_{kind}.txt") for kind in ("filenames", "captions"))
        self.captions = read_aligned(names, captions)[1] if names.exists() else read_lines(captions)
        digest = hashlib.sha256("\n".join(self.captions).encode()).hexdigest()[:16]
        self.settings = {**settings, "captioner": captioner, "captions_sha256": digest}
        self.overwrite, self.rows = overwrite, {}
        if not overwrite:
            self.resume()

    def read(self):
        """(settings or None, valid rows by line number, bytes in whole lines) of the journal."""
        try:
            data = cli.read_file(self.journal)
        except FileNotFoundError:
            return None, {}, 0
        size = data.rfind(b"\n") + 1  # what follows was cut off while it was written
        settings, rows = None, {}
        for number, line in enumerate(data[:size].split(b"\n")[:-1], 1):
            try:
                row = json.loads(line)
                if number == 1:
                    settings = dict(row["settings"])
                elif self.is_valid(row):
                    rows[row["line"]] = row
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise cli.UserError(f"{self.journal}, line {number}: not what enrich_captions.py writes; restore the "
                                    "file, or start anew with --overwrite") from error
        return settings, rows, size

    def is_valid(self, row):
        """Whether `row` belongs to a caption and carries the phrase."""
        line = row["line"]
        return (1 <= line <= len(self.captions) and row["caption"] == self.captions[line - 1]
                and has_phrase_once(row["enriched"], self.settings["phrase"]) and isinstance(row["outcome"], str))

    def resume(self):
        """Reads the rows of an earlier run; UserError if its settings were others, or are not known."""
        settings, rows, _ = self.read()
        if settings is None and self.path.exists():
            raise cli.UserError(f"{self.path} is there, but no {self.journal.name} that says how it was made; "
                                "move it away, or add --overwrite")
        if settings is not None and (differing := cli.differing_settings(settings, self.settings)):
            raise cli.UserError(f"{self.journal} was written with other settings ({'; '.join(differing)}); "
                                "give those again, or start anew with --overwrite")
        self.rows = rows

    @property
    def is_finished(self):
        return self.path.exists() and len(self.rows) == len(self.captions)

    def check(self):
        """UserError unless every line of the finished list carries the phrase."""
        check_coverage(self.captions, read_lines(self.path), self.settings["phrase"], self.path)

    @contextlib.contextmanager
    def appending(self):
        """Context that yields a function(row) to add a finished caption; UserError while another run is in it."""
        with cli.naming_errors(self.journal), open(self.journal, "ab") as file:
            lock_file(file)
            begun = None
            if not self.overwrite:
                begun, self.rows, size = self.read()
                file.truncate(size)

            def append(row):
                nonlocal begun
                if not begun:  # what --overwrite replaces stays until there is something new
                    file.truncate(0)
                    self.path.unlink(missing_ok=True)
                    cli.append_row(self.journal, {"settings": self.settings})
                    begun = self.settings
                cli.append_row(self.journal, row)
                self.rows[row["line"]] = row

            yield append
            os.fsync(file.fileno())

    def write(self):
        """Writes the list, and reads it again; UserError, and no list, unless every line carries the phrase."""
        enriched = [self.rows[line]["enriched"] for line in sorted(self.rows)]
        check_coverage(self.captions, enriched, self.settings["phrase"], self.path)
        with cli.atomic_path(self.path) as temporary:
            temporary.write_text("".join(f"{text}\n" for text in enriched), encoding="utf-8", newline="\n")
            check_coverage(self.captions, read_lines(temporary), self.settings["phrase"], self.path)
