"""The enriched captions of one captioner in data/<gesture>/<split>: a journal, written line by line, then the list.

Every row of the journal <captioner>_enriched.jsonl is one finished caption. <captioner>_enriched.txt is written from
it when all are done, whole, in the order of the captions.
"""

from pathlib import Path

from utils.captions.enrichment import check_coverage
from utils.captions.phrase import has_phrase_once
from utils.data.images import read_aligned, read_lines, write_lines
from utils.system import errors, files
from utils.system.digests import sha256
from utils.system.file_lock import lock_outputs
from utils.system.journal import Journal


def lock_enriched(folder, captioner):
    """Context that keeps other runs from the enriched captions of `folder`. UserError while one writes them."""
    return lock_outputs(folder, *(f"{captioner}_enriched{end}" for end in (".jsonl", ".txt", "_report.jsonl")))


class EnrichedFile:
    """`captions` are the lines of the captioner, `rows` the finished ones by line number, from 1."""

    def __init__(self, folder, captioner, settings, overwrite=False):
        """UserError when captions and file names do not fit, or there are rows that were made otherwise."""
        self.path = Path(folder, f"{captioner}_enriched.txt")
        self.default_report = Path(folder, f"{captioner}_enriched_report.jsonl")
        names, captions = (Path(folder, f"{captioner}_{kind}.txt") for kind in ("filenames", "captions"))
        self.captions = read_aligned(names, captions)[1] if names.exists() else read_lines(captions)
        digest = sha256(["\n".join(self.captions).encode()])
        self.settings = {**settings, "captioner": captioner, "captions_sha256": digest}
        self.journal = Journal(self.path.with_suffix(".jsonl"), "enrich_captions.py", self.parse, anew=overwrite)
        if self.journal.settings is None and self.path.exists() and not overwrite:
            raise errors.UserError(f"{self.path} is there, but no {self.journal.path.name} that says how it was made; "
                                "move it away, or add --overwrite")
        self.journal.check(self.settings)
        self.rows = self.journal.records

    def parse(self, row):
        """The row by its number; nothing if it does not belong to a caption, or lacks the phrase."""
        line = row["line"]
        str.encode(row["enriched"])  # ValueError: half of a surrogate pair, which no list can hold
        is_valid = (1 <= line <= len(self.captions) and row["caption"] == self.captions[line - 1]
                    and has_phrase_once(row["enriched"], self.settings["phrase"]) and isinstance(row["outcome"], str)
                    and isinstance(row.get("rule", ""), str))
        return {line: row} if is_valid else {}

    @property
    def is_lacking(self):
        """Whether captions have no row yet."""
        return len(self.rows) < len(self.captions)

    @property
    def is_finished(self):
        return not self.journal.anew and self.path.exists() and not self.is_lacking

    def check(self):
        """UserError unless every line of the finished list carries the phrase."""
        check_coverage(self.captions, read_lines(self.path), self.settings["phrase"], self.path)

    def append(self, row):
        """Adds a finished caption."""
        self.journal.append(self.settings, row)

    def write(self):
        """Writes the list, and reads it again; UserError, and no list, unless every line carries the phrase."""
        enriched = [self.rows[line]["enriched"] for line in sorted(self.rows)]
        check_coverage(self.captions, enriched, self.settings["phrase"], self.path)
        with files.atomic_path(self.path) as temporary:
            write_lines(temporary, enriched)
            check_coverage(self.captions, read_lines(temporary), self.settings["phrase"], self.path)
        self.journal.finish()
