"""The files of one captioner in data/<gesture>/<split>: a journal written batch by batch, and two lists at the end.

<captioner>_captions.jsonl begins with the settings; every further line is a batch of records, one per image, with
its caption or the problem it had. <captioner>_filenames.txt and <captioner>_captions.txt are written from it when
all images are done, so that they are never seen half finished, and do not tell how often the run was interrupted.
"""

import contextlib
import json
import os
from pathlib import Path

from utils import cli
from utils.file_lock import lock_file
from utils.images import list_images, open_image

NO_CAPTION = "no caption in two attempts"


def is_listable(name):
    """Whether a file name can stand in a list of UTF-8 lines and be read back."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return not any(c in name for c in "\n\r") and not name.startswith("\N{ZERO WIDTH NO-BREAK SPACE}")


def file_stamp(path):
    """[size, time of change in ns]: tells another picture of the same name apart; None for no such file."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def check_record(record):
    """The record. ValueError, LookupError or TypeError unless it has a name, a stamp, and a caption or a problem."""
    texts = {key: record[key] for key in ("name", "caption", "problem") if key in record}
    stamp = record["stamp"]
    is_line = all(isinstance(text, str) and len(text.splitlines()) == 1 for text in texts.values())
    if not is_line or len(texts) != 2 or "name" not in texts or not (stamp is None or isinstance(stamp, list)):
        raise ValueError("not a record of an image")
    return record


def can_be_read(path):
    with contextlib.suppress(cli.UserError):
        return open_image(path) is not None
    return False


class CaptionFolder:
    """`paths` are its images in the order of the lists, `records` what is known of them by name."""

    def __init__(self, folder, captioner, overwrite=False):
        self.folder, self.overwrite = Path(folder), overwrite
        self.journal = self.folder / f"{captioner}_captions.jsonl"
        self.names_list = self.folder / f"{captioner}_filenames.txt"
        self.captions_list = self.folder / f"{captioner}_captions.txt"
        self.enriched_list = self.folder / f"{captioner}_enriched.txt"
        paths = list_images(self.folder / "images")
        self.paths = [path for path in paths if is_listable(path.name)]
        for path in paths:
            if not is_listable(path.name):
                cli.warn(f"left out: {path}: such a name cannot stand in a list; rename the file")
        self.settings, self.records = (None, {}) if overwrite else self.read()[:2]

    def read(self):
        """(settings or None, newest record of each name, bytes in whole lines) of the journal."""
        try:
            data = self.journal.read_bytes()
        except FileNotFoundError:
            return None, {}, 0
        size = data.rfind(b"\n") + 1  # what follows was cut off while it was written
        settings, records = None, {}
        for number, line in enumerate(data[:size].split(b"\n")[:-1], 1):
            try:
                if number == 1:
                    settings = dict(json.loads(line)["settings"])
                else:
                    records |= {record["name"]: check_record(record) for record in json.loads(line)["batch"]}
            except (ValueError, LookupError, TypeError, RecursionError) as error:
                raise cli.UserError(f"{self.journal}, line {number}: not what a captioner writes; "
                                    "restore the file, or start anew with --overwrite") from error
        return settings, records, size

    def check(self, settings):
        """UserError when there are captions that were made with other settings, or nobody knows how."""
        lists = [path.name for path in (self.names_list, self.captions_list) if path.exists()]
        if self.settings is not None:
            known = {key: value for key, value in self.settings.items() if key in settings}
            if differing := cli.differing_settings(known, settings):
                raise cli.UserError(f"{self.journal} was written with other settings ({'; '.join(differing)}); "
                                    "give those again, or start anew with --overwrite")
        elif lists and not self.overwrite:
            raise cli.UserError(f"{self.folder} holds {' and '.join(lists)} but no {self.journal.name} that says "
                                "how they were made; move them away, or add --overwrite")

    def is_done(self, path):
        """Whether there is a record of this very file; an image that could not be read is looked at again."""
        record = self.records.get(path.name)
        if record is None or record["stamp"] != file_stamp(path):
            return False
        return record.get("problem") in (None, NO_CAPTION) or not can_be_read(path)

    def unfinished(self):
        """The paths that are still to be captioned."""
        return [path for path in self.paths if not self.is_done(path)]

    @contextlib.contextmanager
    def appending(self, settings):
        """Context that yields a function(records) to add a batch; UserError while another run is in it."""
        with cli.naming_errors(self.journal), open(self.journal, "ab") as file:
            lock_file(file)
            if self.overwrite:
                file.truncate(0)
                self.names_list.unlink(missing_ok=True)
                self.captions_list.unlink(missing_ok=True)
            begun, _, size = self.read()
            file.truncate(size)
            if begun is None:
                cli.append_row(self.journal, {"settings": settings})

            def append(records):
                cli.append_row(self.journal, {"batch": records})
                os.fsync(file.fileno())
                self.records |= {record["name"]: record for record in records}

            yield append

    def listed(self):
        """[(name, caption)] of the images that have one, in order."""
        records = [self.records[path.name] for path in self.paths]
        return [(record["name"], record["caption"]) for record in records if "caption" in record]

    def has_lists(self):
        """Whether both lists are there, with the names they should have; captions may have been edited since."""
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
            raise cli.UserError(f"{self.folder / 'images'}: none of its images has a caption; see the warnings")
        self.captions_list.unlink(missing_ok=True)
        for path, lines in zip((self.names_list, self.captions_list), zip(*pairs, strict=True), strict=True):
            with cli.atomic_path(path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
        if self.enriched_list.exists():
            cli.warn(f"{self.enriched_list} was made from earlier captions; run enrich_captions.py again")

    def summary(self):
        """What became of the images, in a few words."""
        problems = [self.records[path.name].get("problem") for path in self.paths]
        without, done = problems.count(NO_CAPTION), problems.count(None)
        parts = [f"{len(problems) - done - without} cannot be read", f"{without} without a caption"]
        return f"{self.folder}: {done} captions, {len(problems) - done} images left out ({', '.join(parts)})"
