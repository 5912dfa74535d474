"""SHA-256 digests by which settings and model folders name what they depend on: weights, images, features."""

import hashlib

LENGTH = 16  # characters that are kept of a SHA-256


def sha256(parts):
    """Start of the SHA-256 over bytes and arrays, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:LENGTH]


def digests_so_far(*models):
    """Digest of the weights of torch modules after each of them, on whatever device: about a second per gigabyte."""
    digest, found = hashlib.sha256(), []
    for model in models:
        for tensor in model.state_dict().values():
            digest.update(tensor.cpu().contiguous().numpy())
        found.append(digest.hexdigest()[:LENGTH])
    return found


def digest_weights(*models):
    """Digest of the weights of torch modules, one after another."""
    return digests_so_far(*models)[-1]


def digest_files(paths):
    """Digest of the bytes of files, in order. One that cannot be opened counts by the reason why."""
    def read():
        for path in paths:
            try:
                data = path.read_bytes()
            except OSError as error:
                data = str(error.strerror).encode()
            yield hashlib.sha256(data).digest()

    return sha256(read())
