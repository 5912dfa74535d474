"""Whether the answer of a language model can be the enriched caption."""

import re

from utils.captions.phrase import has_phrase_once, phrase_pattern
from utils.captions.rules.enrichment_rules import (
    WHOLE_QUOTED,
    enrich_by_rules,
    find_other_gesture,
    find_wording,
    to_one_line,
)
from utils.captions.rules.gesture_words import ALL_FORMS, DET, HANDS, MAKE, OWNER

# Before the phrase: "giving the making …"; "making a funny", where the caption has no such face; and what only a noun
# can follow.
DOUBLE_VERB = re.compile(rf"\b{MAKE} {OWNER} {DET}$", re.IGNORECASE)
DOUBLE_VERB_OF = re.compile(rf"\b{MAKE} {DET}[\w-]+ $", re.IGNORECASE)
NEEDS_A_NOUN = re.compile(
    rf"(?:^|\s)(?:with(?: {HANDS})?|in|on|of|at|to|from|for|by|like|as|{OWNER}) $", re.IGNORECASE)
PREAMBLE = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|great|yes|alright|no problem|happy to help)"
    r"(?:[,.!:]| [-–—] | here\b)"
    r"|here(?:'s|’s| is| are| you go)\b"
    r"|(?:modified|revised|final|corrected|updated|rewritten)\s*:|<think|[-*•] |\d+[.)] "
    r"|as an? (?:ai|language)"
    r"|i(?:'m|’m| am| have|'ve|’ve| can| will|'ll|’ll| cannot|'d|’d) |(?:the )?(?:\w+ ){0,2}(?:sentence|caption|answer"
    r"|output|version|result)(?: (?:is|would be|reads))?:|(?:the )?(?:modified|revised|final|corrected|original|updated"
    r"|rewritten) (?:sentence|caption)\b", re.IGNORECASE)
COMMENTARY = re.compile(
    r"\bnote:|\bnote that\b|\bi (?:have )?(?:modified|replaced|changed|added|appended|removed|kept)\b"
    r"|\b(?:original|modified|final) sentence\b|\bhand gesture information\b|[*_#]{2}|<\||</?think", re.IGNORECASE)
WORDS = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
EDGE_QUOTES = re.compile(r"(?<!\w)['’‘`]|['’‘`](?!\w)|[\"“”„«»]")  # not the apostrophe of "man's"
ENDING = re.compile(r"(?<=\w\w)(?:(?:(\w)\1)?ing|es|ed|e|s)$")  # "sits" and "sitting" are one word
SENTENCE_SIGNS = set(" .,;:!?'’‘\"“”„«»`()-–—…/&%")
LEAST_KEPT, MOST_ADDED = 0.75, 4  # share of the caption's words, and words (and half as many as it has)

# Words that an answer may have more or fewer of than the caption: they hold a sentence together. And words that it may
# leave out: they tell of hands, and where these are.
GLUE = set("""a an the this that these those and or but while as then with without in into on onto of at to for from by
 up is are was were be being been am he she it they we who which whose his her hers its their there here has have had
 wearing wears also both one's""".split())
HAND_WORDS = {form for forms in ALL_FORMS for form in forms} | set("""
 hand hands finger fingers thumb thumbs palm palms
 fist fists arm arms wrist wrists index pinky gesture gestures sign signs symbol symbols signal signals pose
 camera viewer photographer face head ear ears mouth lips chin forehead temple chest""".split())


def clean_answer(text):
    """`text` without spaces around it, and without quotation marks around the whole of it."""
    text = text.strip()
    if quoted := WHOLE_QUOTED.match(text):
        return text[1:quoted.start(1)].strip() if quoted[1][1:] in ("", ".") else text
    return text


def list_words(text, ignored=frozenset()):
    """The words of `text` in small letters without the `ignored` ones and without endings."""
    words = (word.replace("’", "'").removesuffix("'s") for word in WORDS.findall(text.lower()))
    return [ENDING.sub(r"\1", word) for word in words if word not in ignored]


def find_stray_mark(text, caption):
    """A sign of markup, an emoji or a quotation mark in `text` that `caption` does not have; None if all is its own."""
    for mark in text:
        if not (mark.isalnum() or mark.isspace() or mark in SENTENCE_SIGNS or mark in caption):
            return mark
    marks = EDGE_QUOTES.findall(text)
    known = EDGE_QUOTES.findall(caption)
    is_odd = len(marks) % 2 == 1 and len(known) % 2 == 0
    return marks[0] if len(marks) > len(known) or is_odd else None


def find_misplaced_phrase(text, caption, target):
    """What stands before the phrase in `text` and leaves no sentence with it; None if nothing does."""
    if not re.match(r"\w+ing ", target.phrase):
        return None
    before, by_rules = text[:text.index(target.phrase)], enrich_by_rules(caption, target)[0]
    for pattern in (DOUBLE_VERB, NEEDS_A_NOUN, DOUBLE_VERB_OF):
        match = pattern.search(before)
        if match and match.group() + target.phrase not in by_rules:  # "with headphones on", "making a funny face"
            return match.group().strip()
    return None


def find_fault(text, caption, target):
    """Why the cleaned answer `text` cannot be the enriched `caption`; None if it can."""
    if not text:
        return "empty"
    if len(text.splitlines()) > 1:
        return "several lines"
    if (match := PREAMBLE.match(text) or COMMENTARY.search(text)) and match.group().lower() not in caption.lower():
        return f"talks about the task ({match.group().strip()!r})"
    if not has_phrase_once(text, target.phrase):
        number = len(phrase_pattern(target.phrase).findall(text))
        return {0: "without the phrase", 1: "the phrase in other letters"}.get(number, f"the phrase {number} times")
    if re.search(rf"[\"'“‘`]{re.escape(target.phrase)}[.,]?[\"'”’`]", text):
        return "the phrase in quotation marks"
    if mark := find_stray_mark(text, caption):
        return f"a mark that the caption lacks ({mark!r})"
    if words := find_misplaced_phrase(text, caption, target):
        return f"a verb before that of the phrase, or words that it does not go with ({words!r})"
    if other := find_other_gesture(text, target):
        return f"names another gesture ({other!r})"
    rest = text.replace(target.phrase, " ")
    span = find_wording(rest, target.gesture.name, {"hand"})  # a hand that is up may be the wanted gesture
    if span and re.search("gest|sign|motion", words := rest[span[0]:span[1]].strip()):
        return f"names a gesture beside the phrase ({words!r})"

    # What the rules leave of the caption beside the phrase has to be there, and nothing of one's own.
    wanted = list_words(enrich_by_rules(caption, target)[0].replace(target.phrase, " "), GLUE | HAND_WORDS)
    kept, length = count_words(rest, wanted), len(WORDS.findall(rest))
    if kept < LEAST_KEPT * len(wanted):
        return f"keeps {kept} of {len(wanted)} words"
    if length > 1.5 * len(WORDS.findall(caption)) + MOST_ADDED:
        return f"{length} words beside the phrase"
    known = {*list_words(caption)}
    if added := [word for word in WORDS.findall(rest.lower()) if not known.issuperset(list_words(word, GLUE))]:
        return f"adds {added[0]!r}"
    if not target.fits(text):
        return f"{target.count_tokens(text)} tokens, more than {target.max_tokens}"
    return None


def count_words(text, words):
    """How many of `words`, as list_words gives them, are in `text`, each as often as it is there."""
    left = list_words(text)
    kept = 0
    for word in words:
        if word in left:
            left.remove(word)
            kept += 1
    return kept


def check_answer(answer, caption, target):
    """(enriched caption, None) of an Answer that can be used, else (None, why not)."""
    text = clean_answer(answer.text)
    fault = None if answer.is_whole else "cut off at the longest answer allowed"
    fault = fault or find_fault(text, caption, target)
    return (None, fault) if fault else (to_one_line(text), None)
