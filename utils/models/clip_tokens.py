"""How many tokens CLIP's text encoder sees of a caption."""

import gzip
from pathlib import Path

from utils.system.errors import UserError

MAX_TOKENS = 77  # of every released CLIP text encoder, start and end included
MERGES = Path(__file__).parent / "clip_vocabulary" / "merges.txt.gz"


def load_clip_tokenizer():
    """CLIP's own tokenizer, with the ids of openai/clip-vit-*, from the merges that lie in utils/clip_vocabulary.

    Its vocabulary is the 256 bytes, the same as ends of words, a token for each merge, start and end of a text.
    """
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import CLIPTokenizer

    merges = [tuple(line.split(" ")) for line in gzip.decompress(MERGES.read_bytes()).decode().splitlines()]
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges),
              "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=merges,
                         model_max_length=MAX_TOKENS)


def load_token_counter(name=None):
    """(function from text to its number of tokens, the most a text encoder takes) of a CLIP tokenizer.

    `name` is the folder of a tokenizer or of a whole pipeline, or a hub id; None is CLIP's own.
    UserError if there is no CLIP tokenizer.
    """
    tokenizer = load_clip_tokenizer() if name is None else open_tokenizer(name)
    return lambda text: len(tokenizer(text, verbose=False).input_ids), min(MAX_TOKENS, tokenizer.model_max_length)


def check_vocabulary(name, tokenizer, known):
    """UserError when a tokenizer has other tokens than the `known` first ones, for which a text encoder has rows."""
    count = max(tokenizer.get_vocab().values(), default=-1) + 1
    if count > known:
        raise UserError(f"{name}: the tokenizer has {count} tokens, the text encoder {known}; use the tokenizer the "
                        "model was trained with")


def open_tokenizer(name):
    """The CLIPTokenizer of a folder or hub id."""
    from utils.models.hub import fetch_folder, load_part

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
    return tokenizer
