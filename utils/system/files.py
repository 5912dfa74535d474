"""Files that are whole or not there, and what is read only if it is one: JSON, rows of results, lists."""

import contextlib
import errno
import json
import os
import re
import shutil
from pathlib import Path

from utils.system.errors import UserError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


@contextlib.contextmanager
def naming_errors(path, temporary=None):
    """A full disk, which names no file, becomes an OSError that names `path`; a file at or in `temporary` is called
    what it would become.

    Libraries written in Rust (safetensors, tokenizers) tell of a full disk by exceptions of their own.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in NO_SPACE:
            error.filename = str(path)
        elif temporary is not None and Path(str(error.filename)).is_relative_to(temporary):
            error.filename = str(Path(path, Path(error.filename).relative_to(temporary)))
            error.filename2 = None
        raise
    except Exception as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None or int(code[1]) not in NO_SPACE:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def beside(path):
    """The hidden name in the folder of `path` under which it is written; the next write takes its place."""
    return path.with_name(f".tmp-{path.name}")


def remove(path):
    """Removes a folder, a file or a link if it is there; what a link leads to stays."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_path(path):
    """Yields a temporary path beside `path`, with its suffix, to write a file or a folder to.

    After the block it is synced and renamed, after an exception removed: `path` is whole or as it was. What a killed
    run left under that name goes first, so only one process may write `path`: see utils/system/file_lock.py.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, former = beside(path), path.with_name(f".tmp-former-{path.name}")
    with naming_errors(path, temporary):
        if former.exists() and not path.exists():  # killed between the two renames
            os.replace(former, path)
        remove(temporary)
        remove(former)
        try:
            yield temporary
            for file in temporary.rglob("*") if temporary.is_dir() else [temporary]:
                if not file.is_dir():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            if temporary.is_dir() and path.is_dir():  # a folder with something in it cannot be renamed over
                os.replace(path, former)
            os.replace(temporary, path)
        finally:
            if former.exists() and not path.exists():
                os.replace(former, path)
            remove(temporary)
            remove(former)


def to_json(obj, indent=None):
    """JSON bytes; paths as text, NumPy numbers and arrays as theirs. Undecodable file names survive."""
    def plain(value):
        return value.tolist() if hasattr(value, "tolist") else str(value)

    text = json.dumps(obj, indent=indent, ensure_ascii=False, default=plain) + "\n"
    return text.encode("utf-8", errors="backslashreplace")  # a lone surrogate becomes its own JSON escape


def write_json(path, obj):
    """Writes `obj` as indented JSON, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_json(obj, indent=2))


def read_json(path):
    """What `write_json` wrote. UserError if the file is damaged, OSError if there is none."""
    try:
        return json.loads(Path(path).read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore the file or delete it") from error


def read_object(path):
    """As read_json, of a file that holds a JSON object: a dict. UserError for anything else."""
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path}: a JSON object is expected; restore the file or delete it")
    return found


def write_settings(path, settings):
    """The settings of a run (a dict or parsed arguments) as JSON beside its results; --debug is not one."""
    settings = settings if isinstance(settings, dict) else vars(settings)
    write_json(path, {name: value for name, value in settings.items() if name != "debug"})


def refuse_differing(whose, old, new, remedy):
    """UserError that names the settings which differ between what `whose` was made with, `old`, and `new`.

    `old` may come from read_json. A difference reads as "Lambda: 0.7 there, 0.5 now".
    """
    old, new = json.loads(to_json(old)), json.loads(to_json(new))
    pairs = {name: (old.get(name, "not set"), new.get(name, "not set")) for name in {**old, **new}}
    if differing := [f"{name}: {there} there, {now} now" for name, (there, now) in pairs.items() if there != now]:
        raise UserError(f"{whose} was made with other settings ({'; '.join(differing)}); {remedy}")


def append_row(path, row):
    """Appends `row` as one JSON line, whole or not at all; a line cut off earlier is ended first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_errors(path), open(path, "a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        line = to_json(row)
        if end and os.pread(file.fileno(), 1, end - 1) != b"\n":
            line = b"\n" + line
        try:
            if file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            file.truncate(end)
            raise


def read_rows(path):
    """The rows of a JSON lines file that `append_row` wrote. UserError naming the line that is damaged."""
    rows = []
    for number, line in enumerate(Path(path).read_bytes().splitlines(), 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error}); remove the line") from error
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: a JSON object is expected; remove the line")
        rows.append(row)
    if not rows:
        raise UserError(f"{path}: no rows in it; run a metric script with --output {path}")
    return rows
