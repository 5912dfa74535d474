"""A lock that ends with the process that holds it, however that ends."""

import fcntl

from utils.cli import UserError


def lock_file(file, name=None):
    """Keep other runs away until the open `file` is closed. UserError, naming it, while another run has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(f"{name or file.name}: another run is writing to it; wait for its end") from error
