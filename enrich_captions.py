"""Put the gesture's phrase into captions: a wrong gesture is replaced, a missing one added.

python enrich_captions.py --gesture call
python enrich_captions.py --gesture call --backend api --api_base http://localhost:11434/v1 --model llama3
python enrich_captions.py --gesture call --backend rules

An instruction model rewrites each caption with the published prompt. Its answer must be one line with the phrase
exactly once, without another gesture, talk about the task or invented text, and fit into CLIP's 77 tokens; else
it is asked again, and at last rules (which need no model) write the line. --backend api asks an OpenAI-compatible
server, with the key in the environment variable OPENAI_API_KEY if it needs one. The same command continues a run.

Reads  <data_dir>/<gesture>/<split>/<captioner>_captions.txt
Writes <captioner>_enriched.txt beside, line for line; _enriched.jsonl, how each line came about;
       _enriched_report.jsonl, the lines that were not accepted at first
"""

import argparse
import collections
import contextlib
import json
import urllib.parse
from pathlib import Path

from utils.data import output_paths
from utils.data.gestures import GESTURES, require_gesture
from utils.system import cli, errors, files, script

SPLITS = {"train": ["train"], "test": ["test"], "both": ["train", "test"]}
DEFAULT_MODEL = "meta-llama/Meta-Llama-3-8B-Instruct"


def parse_args(argv=None):
    parser = cli.ArgumentParser(__doc__)
    parser.add_argument("--gesture", required=True, help="HaGRID's name of the gesture, such as call")
    parser.add_argument("--split", choices=tuple(SPLITS), default="both", help="which captions")
    parser.add_argument("--captioner", default="BLIP2", choices=("BLIP2", "PaliGemma", "VitGpt2", "synthetic"),
                        help="whose captions")
    parser.add_argument("--data_dir", type=cli.path_name, default=Path("data"), help="folder of all data")
    parser.add_argument("--backend", choices=("transformers", "api", "rules"), default="transformers",
                        help="who rewrites: a model on this machine, one behind a server, or rules alone")
    parser.add_argument("--model", help="transformers: hub id or folder of an instruction model (default: "
                                        f"{DEFAULT_MODEL}); api: the server's name of the model")
    parser.add_argument("--api_base", type=server_address, help="api: address of an OpenAI-compatible server, such as "
                                                                "http://localhost:11434/v1")
    parser.add_argument("--phrase", type=phrase_text, help="instead of the phrase of the table of gestures")
    parser.add_argument("--tokenizer", help="folder or hub id of the CLIP tokenizer that counts tokens (default: that "
                                            "of OpenAI's CLIP, which every Stable Diffusion 1.x uses)")
    parser.add_argument("--batch_size", type=cli.batch_size, default=8, help="transformers: captions at once")
    parser.add_argument("--num_parallel", type=cli.int_between(1, 256), default=4, help="api: requests in flight")
    parser.add_argument("--timeout", type=cli.float_between(0.001, 86_400), default=60.0,
                        help="api: seconds for one answer")
    parser.add_argument("--retries", type=cli.int_between(0, 100), default=5,
                        help="api: how often a request that failed is sent again, with growing pauses")
    parser.add_argument("--max_attempts", type=cli.int_between(1, 100), default=3,
                        help="how often the model is asked for a caption before the rules write it")
    parser.add_argument("--report", type=cli.path_name, help="JSON lines file for the lines that were not accepted "
                        "at first (default: <captioner>_enriched_report.jsonl beside the captions)")
    parser.add_argument("--overwrite", action="store_true", help="enrich all captions anew")
    cli.add_common_flags(parser)
    args = parser.parse_args(argv)

    gesture = require_gesture(parser, args.gesture)
    args.phrase = args.phrase or gesture.phrase
    check_phrase(parser, args.phrase, gesture)
    if args.backend == "api" and not (args.api_base and args.model):
        parser.error("--backend api needs --api_base and --model, such as http://localhost:11434/v1 and llama3")
    if args.backend != "api" and args.api_base:
        parser.error(f"--api_base is for --backend api, not {args.backend}")
    if args.backend == "rules" and args.model:
        parser.error("--backend rules needs no model; leave --model out")
    if args.backend == "transformers":
        args.model = args.model or DEFAULT_MODEL
    for split in SPLITS[args.split]:
        cli.require_file(parser, args.data_dir / args.gesture / split / f"{args.captioner}_captions.txt", "--captioner",
                         "caption the images first, or choose another --captioner or --split")
    if args.report:
        output_paths.check_outputs(parser, args, [])
        is_beside = args.report.resolve().is_relative_to((args.data_dir / args.gesture).resolve())
        is_other = args.report.exists() and not is_report(args.report)
        if is_other or is_beside and not args.report.name.endswith("report.jsonl"):
            parser.error(f"--report {args.report}: is, or might become, no report of this script; give another file")
    return args


def server_address(text):
    """argparse type: the address of a server, up to /v1. It is not repeated in an error, as it may hold a key."""
    try:
        address = urllib.parse.urlsplit(text)
        is_valid = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        is_valid = False
    if "@" in text or "?" in text or "#" in text:
        raise argparse.ArgumentTypeError("must hold no user, password or query; a key is read from OPENAI_API_KEY")
    if not is_valid or not text.isascii() or not text.isprintable() or " " in text:
        raise argparse.ArgumentTypeError("must be an address such as http://localhost:11434/v1")
    return text.rstrip("/").removesuffix("/chat/completions")


def phrase_text(text):
    """argparse type: a phrase on one line."""
    phrase = " ".join(text.split())
    if not phrase or not phrase.isprintable():
        raise argparse.ArgumentTypeError("must be a few printable words")
    return phrase


def check_phrase(parser, phrase, gesture):
    """A usage error for a phrase that carries another gesture's."""
    for other in GESTURES.values():
        if other is not gesture and other.phrase in phrase.lower():
            parser.error(f"--phrase {phrase!r}: holds the phrase of --gesture {other.name}; give other words")


def is_report(path):
    """Whether a file is what write_report writes; an empty one is, too."""
    try:
        with open(path, "rb") as file:
            line = file.readline()
        return not line or {"split", "line", "outcome"} <= json.loads(line).keys()
    except (OSError, ValueError, AttributeError):
        return False


def load_model(args):
    """Who answers the questions; None for --backend rules."""
    if args.backend == "api":
        from utils.models.chat_client import ChatClient

        return ChatClient(args.api_base, args.model, args.timeout, args.retries)
    if args.backend == "transformers":
        from utils.models.language_models import LocalModel

        print(f"Loading {args.model}", flush=True)
        return LocalModel(args.model, args.device)
    return None


def format_counts(rows):
    """Outcomes, and what the rules did, with their numbers."""
    outcomes = collections.Counter(row["outcome"] for row in rows)
    by_rules = collections.Counter(row["rule"] for row in rows if "rule" in row)
    text = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    return text + (f" ({', '.join(f'{count} {rule}' for rule, count in by_rules.most_common())})" if by_rules else "")


def write_report(path, reported):
    """One JSON line per (split, row) whose caption was not accepted at first."""
    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for split, row in reported:
            if row["outcome"] != "accepted":
                stream.write(files.to_json({"split": split, **row}))


def main(args):
    from tqdm import tqdm

    from utils.captions.enriched_file import EnrichedFile, lock_enriched
    from utils.captions.enrichment import enrich_missing
    from utils.captions.phrase import Target
    from utils.models.clip_tokens import load_token_counter

    # Check phrase, captions, and what earlier runs have left
    target = Target(GESTURES[args.gesture], args.phrase, *load_token_counter(args.tokenizer))
    if not target.fits(target.phrase):
        raise errors.UserError(f"--phrase has {target.count_tokens(target.phrase)} tokens, more than the "
                               f"{target.max_tokens} that a text encoder takes; give a shorter one")
    names = ["gesture", "phrase", "backend", "tokenizer"]
    names += [] if args.backend == "rules" else ["model", "max_attempts", "seed"]
    settings = {name: getattr(args, name) for name in names}
    with contextlib.ExitStack() as stack:
        enriched = {}  # by split
        for split in SPLITS[args.split]:
            folder = args.data_dir / args.gesture / split
            stack.enter_context(lock_enriched(folder, args.captioner))
            enriched[split] = EnrichedFile(folder, args.captioner, settings, args.overwrite)

        # Load the model, if there is anything to ask
        model = load_model(args) if any(file.is_lacking for file in enriched.values()) else None

        # Enrich what is missing, each caption into its journal as it is finished; then write the lists
        for split, file in enriched.items():
            if file.is_finished:
                file.check()
                print(f"{file.path} is finished; --overwrite would enrich the captions anew")
                continue
            if file.is_lacking:
                counts = collections.Counter(row["outcome"] for row in file.rows.values())
                progress = tqdm(enrich_missing(file, model, target, args), total=len(file.captions),
                                initial=len(file.rows), desc=split, unit="caption")
                for row in progress:
                    file.append(row)
                    counts[row["outcome"]] += 1
                    progress.set_postfix(counts, refresh=False)
            file.write()

        # Report
        reported = []
        for split, file in enriched.items():
            rows = [file.rows[line] for line in sorted(file.rows)]
            write_report(file.default_report, [(split, row) for row in rows])
            print(f"{split}: {len(rows)} captions carry {args.phrase!r}: {format_counts(rows)}")
            reported += [(split, row) for row in rows]
        if args.report:
            write_report(args.report, reported)
        if no_answer := sum(row["outcome"] == "no answer" for _, row in reported):
            errors.warn(f"{no_answer} captions got no answer from the server and were left to the rules; see the "
                        "report")


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
