"""SHA-256 digests by which settings and model folders name what they depend on: weights, images, features."""

import hashlib


def sha256(parts):
    """Start of the SHA-256 over bytes and arrays, one after another."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]


def digest_weights(*models):
    """Digest of the weights of torch modules, on whatever device they are: about a second per gigabyte."""
    return sha256(tensor.cpu().contiguous().numpy() for model in models for tensor in model.state_dict().values())


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
