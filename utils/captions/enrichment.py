"""Captions rewritten by a language model: the prompt, who is asked again, the rules last."""

import functools
import hashlib
from multiprocessing.pool import ThreadPool

from utils.captions.phrase import has_phrase_once
from utils.captions.rules import check_answer, enrich_by_rules, to_one_line
from utils.models.questions import NoAnswerError, Question
from utils.system.errors import UserError

# The instruction of the released programs, word by word.
PROMPT = (
    "The following sentence contains incorrect hand gesture information or lacks hand gesture information. If it "
    "contains incorrect hand gesture information, modify it to '{phrase}.' If it lacks hand gesture information, "
    "append '{phrase}' to the end of the sentence. The original sentence is: '{caption}.' The final sentence must "
    "include '{phrase}' exactly as it is. Provide the modified sentence directly and independently."
)

ACCEPTED, ASKED_AGAIN, RULES, NO_ANSWER = "accepted", "asked again", "rules", "no answer"
MAX_FAILED = 5  # lines in a row without an answer, after which a server counts as down


def build_prompt(caption, phrase):
    """The published instruction for one caption; it brings the full stop itself."""
    return PROMPT.format(phrase=phrase, caption=to_one_line(caption).rstrip(". "))


def line_seed(seed, line, attempt):
    """A number below 2^31 for the given attempt at a line, so that no line depends on the others."""
    digest = hashlib.sha256(f"enrich:{seed}:{line}:{attempt}".encode()).digest()
    return int.from_bytes(digest[:4], "little") >> 1


def make_row(line, caption, enriched, outcome, refused=(), **more):
    """What is kept of a finished caption; `line` counts from 1."""
    row = {"line": line, "outcome": outcome, "caption": caption, "enriched": enriched}
    return {**row, **more, "refused": list(refused)}


def row_by_rules(line, caption, target, outcome=RULES, refused=()):
    enriched, done = enrich_by_rules(caption, target)
    return make_row(line, caption, enriched, outcome, refused, rule=done)


def enrich_lines(lines, ask, target, max_attempts, seed):
    """Rows for `lines`, a list of (line number, caption): the model is asked, again if need be, then the rules.

    `ask` takes a list of Questions and returns as many Answers. The first question is answered greedily; what is
    refused is asked again with a seed of its own, `max_attempts` times in all. NoAnswerError from `ask` is
    noted in the rows, as the outcome NO_ANSWER.
    """
    rows, refused, open_lines = {}, {line: [] for line, _ in lines}, list(lines)
    for attempt in range(max_attempts):
        questions = [Question(build_prompt(caption, target.phrase), line_seed(seed, line, attempt), attempt == 0)
                     for line, caption in open_lines]
        try:
            answers = ask(questions) if questions else []
        except NoAnswerError as error:
            for line, caption in open_lines:
                faults = [*refused[line], {"answer": None, "reason": str(error)}]
                rows[line] = row_by_rules(line, caption, target, NO_ANSWER, faults)
            open_lines = []
            break
        for (line, caption), answer in zip(open_lines, answers, strict=True):
            enriched, fault = check_answer(answer, caption, target)
            if fault:
                refused[line].append({"answer": answer.text, "reason": fault})
            else:
                outcome = ASKED_AGAIN if refused[line] else ACCEPTED
                rows[line] = make_row(line, caption, enriched, outcome, refused[line])
        open_lines = [(line, caption) for line, caption in open_lines if line not in rows]
    for line, caption in open_lines:
        rows[line] = row_by_rules(line, caption, target, refused=refused[line])
    return [rows[line] for line, _ in lines]


def hold_unanswered(rows):
    """Yields `rows`; those without an answer wait until a later one has one.

    UserError when MAX_FAILED lines in a row have none, or none has: the server is down, and rules for the rest
    would only hide it.
    """
    held, any_answered = [], False
    for row in rows:
        if row["outcome"] == NO_ANSWER:
            held.append(row)
            if len(held) < MAX_FAILED:
                continue
            break
        yield from held
        held, any_answered = [], True
        yield row
    if held and (len(held) >= MAX_FAILED or not any_answered):
        reason = held[-1]["refused"][-1]["reason"]
        raise UserError(f"{len(held)} captions in a row got no answer, the last one because of {reason}; "
                        "what is finished is kept: look after the server and give the same command again")
    yield from held


def enrich_missing(file, model, target, args):
    """Yields rows for the captions of an EnrichedFile that it has none for, as they are finished."""
    lines, done = list(enumerate(file.captions, 1)), set(file.rows)
    if args.backend == "rules":
        yield from (row_by_rules(*line, target) for line in lines if line[0] not in done)
        return
    # A batch is asked whole again when one of its lines is missing: its answers may depend on its company
    size = args.batch_size if args.backend == "transformers" else 1
    batches = [lines[start:start + size] for start in range(0, len(lines), size)]
    batches = [batch for batch in batches if any(line not in done for line, _ in batch)]
    ask = functools.partial(enrich_lines, ask=model.ask, target=target, max_attempts=args.max_attempts, seed=args.seed)
    with ThreadPool(args.num_parallel) as pool:
        results = pool.imap_unordered(ask, batches) if args.backend == "api" else map(ask, batches)
        yield from hold_unanswered(row for rows in results for row in rows if row["line"] not in done)


def check_coverage(captions, enriched, phrase, name):
    """UserError, naming the first line, unless every one of `captions` has a line with the phrase exactly once."""
    remedy = "nothing was written: correct or delete the list and run again, or make it anew with --overwrite"
    if len(captions) != len(enriched):
        raise UserError(f"{name}: {len(enriched)} lines for {len(captions)} captions; {remedy}")
    for line, text in enumerate(enriched, 1):
        if not has_phrase_once(text, phrase) or to_one_line(text) != text:
            raise UserError(f"{name}, line {line}: {text!r} does not carry {phrase!r} once; {remedy}")
