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
import functools
import json
import re
from pathlib import Path

from utils.data import output_paths
from utils.data.gestures import GESTURES, require_gesture
from utils.system import cli, errors, files, script

SPLITS = {"train": ["train"], "test": ["test"], "both": ["train", "test"]}
MAX_LINE = 2**20  # bytes of a report's line, which has a few hundred
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
    parser.add_argument("--api_base", type=address, help="api: address of an OpenAI-compatible server, such as "
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
        check_report(parser, args)
    return args


def address(text):
    """argparse type: the address of a server."""
    from utils.models.chat_client import parse_address

    try:
        parse_address(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return text


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


def check_report(parser, args):
    """A usage error for a --report that cannot be written, or would replace anything but an earlier report."""
    output_paths.check_outputs(parser, args, [])
    folders = [(args.data_dir / args.gesture / split).resolve() for split in SPLITS["both"]]
    is_list = re.fullmatch(r"[^_]+_(filenames|captions|enriched)(\.new)?\.(txt|jsonl)", args.report.name)
    if is_list and args.report.resolve().parent in folders:
        parser.error(f"--report {args.report}: is the name of a list or journal; give another file")
    if args.report.exists() and not is_report(args.report):
        parser.error(f"--report {args.report}: is there and no report of this script; give another file")


def is_report(path):
    """Whether a file is what write_report writes; an empty one is, too."""
    try:
        with open(path, "rb") as file:
            line = file.readline(MAX_LINE)
        return not line or {"split", "line", "outcome"} <= json.loads(line).keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def list_settings(args):
    """What the enriched captions depend on."""
    names = ["gesture", "phrase", "backend", "tokenizer"]
    return {name: getattr(args, name) for name in
            names + ([] if args.backend == "rules" else ["model", "max_attempts", "seed"])}


def load_backend(args):
    """Function (captions as (line, text), rows so far, target) -> rows as they are finished, for args.backend."""
    from utils.captions.enrichment import enrich_lines, hold_unanswered, map_in_threads, row_by_rules

    if args.backend == "rules":
        return lambda lines, done, target: (row_by_rules(*line, target) for line in lines if line[0] not in done)
    if args.backend == "api":
        from utils.models.chat_client import ChatClient

        model, chunk_size = ChatClient(args.api_base, args.model, args.timeout, args.retries, args.seed), 1
    else:
        print(f"Loading {args.model}", flush=True)
        from utils.models.language_models import LocalModel

        model, chunk_size = LocalModel(args.model, args.device), args.batch_size

    def enrich(lines, done, target):
        # A batch is asked whole again when one of its lines is missing: its answers may depend on its company.
        chunks = [lines[start:start + chunk_size] for start in range(0, len(lines), chunk_size)]
        chunks = [chunk for chunk in chunks if any(line not in done for line, _ in chunk)]
        work = functools.partial(enrich_lines, ask=model.ask, target=target, max_attempts=args.max_attempts,
                                 seed=args.seed)
        results = map_in_threads(work, chunks, args.num_parallel) if args.backend == "api" else map(work, chunks)
        return hold_unanswered(row for rows in results for row in rows if row["line"] not in done)

    return enrich


def enrich_file(file, enrich, target, name):
    """Enrich what is missing in an EnrichedFile, each caption into its journal as it is finished."""
    from tqdm import tqdm

    lines = list(enumerate(file.captions, 1))
    rows = enrich(lines, dict(file.rows), target)
    progress = tqdm(rows, total=len(lines), initial=len(file.rows), desc=name, unit="caption")
    counts = collections.Counter(row["outcome"] for row in file.rows.values())
    for row in progress:
        file.append(row)
        counts[row["outcome"]] += 1
        progress.set_postfix(counts, refresh=False)


def format_counts(rows):
    """Outcomes, and what the rules did, with their numbers."""
    outcomes = collections.Counter(row["outcome"] for row in rows)
    by_rules = collections.Counter(row["rule"] for row in rows if "rule" in row)
    text = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
    return text + (f" ({', '.join(f'{count} {rule}' for rule, count in by_rules.most_common())})" if by_rules else "")


def write_report(path, reported):
    """One JSON line per (split, row) whose caption was not accepted at first."""
    from utils.captions.enrichment import ACCEPTED

    with files.atomic_path(path) as temporary, open(temporary, "wb") as stream:
        for split, row in reported:
            if row["outcome"] != ACCEPTED:
                stream.write(files.to_json({"split": split, **row}))


def enrich_splits(args, enriched, target):
    """Enriches what is missing in {split: EnrichedFile}, and writes the lists."""
    backend = None
    for split, file in enriched.items():
        if file.is_finished:
            file.check()
            print(f"{file.path} is finished; --overwrite would enrich the captions anew")
            continue
        if len(file.rows) < len(file.captions):
            backend = backend or load_backend(args)
            enrich_file(file, backend, target, split)
        file.write()


def report(args, enriched):
    """Writes the reports of {split: EnrichedFile} and prints what came about."""
    rows = {split: [file.rows[line] for line in sorted(file.rows)] for split, file in enriched.items()}
    for split, file in enriched.items():
        write_report(file.default_report, [(split, row) for row in rows[split]])
        print(f"{split}: {len(rows[split])} captions carry {args.phrase!r}: {format_counts(rows[split])}")
    if args.report:
        write_report(args.report, [(split, row) for split in enriched for row in rows[split]])
    no_answer = sum(row["outcome"] == "no answer" for split in enriched for row in rows[split])
    if no_answer:
        errors.warn(f"{no_answer} captions got no answer from the server and were left to the rules; see the report")


def main(args):
    # Check captions, phrase and tokenizer.
    from utils.captions.enriched_file import EnrichedFile, lock_enriched
    from utils.captions.rules.enrichment_rules import Target
    from utils.models.clip_tokens import load_token_counter

    count_tokens, max_tokens = load_token_counter(args.tokenizer)
    target = Target(GESTURES[args.gesture], args.phrase, count_tokens, max_tokens)
    if not target.fits(target.phrase):
        raise errors.UserError(f"--phrase has {count_tokens(target.phrase)} tokens, more than the {max_tokens} that a "
                            "text encoder takes; give a shorter one")
    folders = {split: args.data_dir / args.gesture / split for split in SPLITS[args.split]}
    with contextlib.ExitStack() as stack:
        for folder in folders.values():
            stack.enter_context(lock_enriched(folder, args.captioner))
        enriched = {split: EnrichedFile(folder, args.captioner, list_settings(args), args.overwrite)
                    for split, folder in folders.items()}
        enrich_splits(args, enriched, target)
        report(args, enriched)


if __name__ == "__main__":
    script.run_main(main, parse_args(), goes_on=True)
