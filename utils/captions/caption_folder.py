"""The files of one captioner in data/<gesture>/<split>: a journal written batch by batch, and two lists at the end.

Every row of the journal <captioner>_captions.jsonl is a batch of records, one per image, with its caption or the
problem it had. <captioner>_filenames.txt and <captioner>_captions.txt are written from it when all images are done,
so that they are never seen half finished, and do not tell how often the run was interrupted.
"""

import contextlib
from pathlib import Path

from utils.data.images import list_images, write_lines
from utils.system import errors, files
from utils.system.file_lock import lock_outputs
from utils.system.journal import Journal

NO_CAPTION = "no caption in two attempts"


def is_line(text):
    """Whether a text is one line to `images.read_lines`, which knows fewer line breaks than str.splitlines."""
    return bool(text.strip()) and not set(text) & set("\0\n\r")


def is_listable(name):
    """Whether a file name can stand in a list of UTF-8 lines and be read back."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return is_line(name) and not name.startswith("\N{ZERO WIDTH NO-BREAK SPACE}")


def file_stamp(path):
    """[size, time of change in ns]: tells another picture of the same name apart; None for no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def parse_batch(row):
    """The records of a row of the journal by the names of their images: each with a stamp, a caption or a problem."""
    records = {record["name"]: record for record in row["batch"]}
    if not all("stamp" in record and is_line(record.get("caption") or record["problem"])
               for record in records.values()):
        raise ValueError("not a record of an image")
    return records


def lock_captions(folder, captioner):
    """Context that keeps other runs from the captions of `folder`. UserError while one writes them."""
    return lock_outputs(folder, *(f"{captioner}_{end}" for end in ("captions.jsonl", "captions.txt", "filenames.txt")))


class CaptionFolder:
    """`paths` are its images in the order of the lists, `records` what is known of them by name."""

    def __init__(self, folder, captioner, overwrite=False):
        self.folder = Path(folder)
        self.names_list = self.folder / f"{captioner}_filenames.txt"
        self.captions_list = self.folder / f"{captioner}_captions.txt"
        self.enriched_list = self.folder / f"{captioner}_enriched.txt"
        paths = list_images(self.folder / "images")
        self.paths = [path for path in paths if is_listable(path.name)]
        for path in paths:
            if not is_listable(path.name):
                errors.warn(f"left out: {path}: such a name cannot stand in a list; rename the file")
        self.journal = Journal(self.captions_list.with_suffix(".jsonl"), "a captioner", parse_batch, anew=overwrite)
        self.records = self.journal.records

    def check(self, settings):
        """UserError when there are captions that were made with other settings, or nobody knows how."""
        lists = [path.name for path in (self.names_list, self.captions_list) if path.exists()]
        if self.journal.settings is None and lists and not self.journal.anew:
            raise errors.UserError(f"{self.folder} holds {' and '.join(lists)} but no {self.journal.path.name} that "
                                   "says how they were made; move them away, or add --overwrite")
        self.journal.check(settings)

    def unfinished(self):
        """The paths of which nothing is known, or what is known is of another file of the name."""
        records = [self.records.get(path.name, {"stamp": ()}) for path in self.paths]
        return [path for path, record in zip(self.paths, records, strict=True) if record["stamp"] != file_stamp(path)]

    def append(self, settings, records):
        """Adds the records of a batch, which are on the disk afterwards.

        The list goes first where an image has taken the place of another one: a killed run would leave the former
        caption, as if nothing was to be done.
        """
        if not self.journal.anew and any("caption" in record and record["name"] in self.records for record in records):
            self.captions_list.unlink(missing_ok=True)
        self.journal.append(settings, {"batch": records})
        self.journal.sync()

    def listed(self):
        """[(name, caption)] of the images that have one, in order."""
        records = [self.records[path.name] for path in self.paths]
        return [(record["name"], record["caption"]) for record in records if "caption" in record]

    def has_lists(self):
        """Whether both lists are there, with the names they should have; captions may have been edited since."""
        if self.journal.anew:
            return False
        names = "".join(f"{name}\n" for name, _ in self.listed())
        with contextlib.suppress(FileNotFoundError):
            return self.captions_list.exists() and self.names_list.read_bytes() == names.encode()
        return False

    def write_lists(self):
        """Write both lists; between the two moments only one of them exists, never two that do not belong together.

        UserError when no image has a caption.
        """
        pairs = self.listed()
        if not pairs:
            raise errors.UserError(f"{self.folder / 'images'}: none of its images has a caption; see the warnings")
        with files.atomic_path(self.captions_list) as captions, files.atomic_path(self.names_list) as names:
            for temporary, lines in zip((names, captions), zip(*pairs, strict=True), strict=True):
                write_lines(temporary, lines)
            self.captions_list.unlink(missing_ok=True)
        self.journal.finish()
        if self.enriched_list.exists():
            errors.warn(f"{self.enriched_list} was made from earlier captions; run enrich_captions.py again")

    def summary(self):
        """What became of the images, in a few words."""
        problems = [self.records[path.name].get("problem") for path in self.paths]
        without, done = problems.count(NO_CAPTION), problems.count(None)
        parts = [f"{len(problems) - done - without} cannot be read", f"{without} without a caption"]
        return f"{self.folder}: {done} captions, {len(problems) - done} images left out ({', '.join(parts)})"
