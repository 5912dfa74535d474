"""How many tokens CLIP's text encoder sees of a caption: counted by a tokenizer, or estimated without one."""

import re

from utils.cli import UserError

MAX_TOKENS = 77  # of every released CLIP text encoder, start and end included
# The pieces that CLIP's tokenizer cuts a text into before it looks for tokens: letters, one digit, other signs.
PIECES = re.compile(r"[^\W\d_]+|\d|(?:[^\s\w]|_)+")
LETTERS_PER_TOKEN = 3  # of words that are not in CLIP's vocabulary; most English words are one token


def estimate_tokens(text):
    """An estimate of CLIP's tokens of `text`, start and end included, that is on the high side for English words.

    A word of n letters counts n / 3 tokens, rounded up; a digit, a sign, and every byte of another alphabet
    one each. The number never falls when words are added.
    """
    def count(piece):
        return -(-len(piece) // LETTERS_PER_TOKEN) if piece.isascii() and piece.isalpha() else len(piece.encode())

    return 2 + sum(count(piece) for piece in PIECES.findall(text.encode(errors="replace").decode()))


def load_token_counter(name):
    """(function from text to its number of tokens, the most a text encoder takes) of a CLIP tokenizer.

    `name` is the folder of a tokenizer or of a whole pipeline, or a hub id; None gives the estimate.
    UserError if there is no CLIP tokenizer.
    """
    if name is None:
        return estimate_tokens, MAX_TOKENS

    from utils.hub import fetch_folder, load_part

    patterns = [f"{folder}{file}" for folder in ("", "tokenizer/")
                for file in ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json")]
    folder = fetch_folder(str(name), patterns, "the folder of a CLIP tokenizer", ", or leave --tokenizer out")
    folder = folder / "tokenizer" if (folder / "tokenizer").is_dir() else folder
    if not any((folder / file).is_file() for file in ("vocab.json", "tokenizer.json")):
        raise UserError(f"{name}: no CLIP tokenizer there (vocab.json or tokenizer.json); "
                        "give the folder of one, or leave --tokenizer out")

    from transformers import CLIPTokenizer

    tokenizer = load_part(name, "tokenizer", lambda: CLIPTokenizer.from_pretrained(folder))
    if len(tokenizer) <= 256:  # without a vocabulary transformers makes one of three tokens
        raise UserError(f"{name}: its tokenizer has {len(tokenizer)} tokens, which is not CLIP's; give another")
    max_tokens = min(MAX_TOKENS, tokenizer.model_max_length)
    return lambda text: len(tokenizer(text, verbose=False).input_ids), max_tokens
