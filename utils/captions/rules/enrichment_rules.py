"""Put a gesture's phrase into a caption by rules, without a model.

Wording of another gesture is replaced by the phrase; a caption without one gets the phrase appended. What the
caption says of people, clothes and places stays, also where it uses a gesture's word for something else. The wording
is English: a gesture named in another language stays beside the phrase.
"""

import re

from utils.captions.phrase import phrase_pattern
from utils.captions.rules.gesture_wording import WORDINGS
from utils.captions.rules.gesture_words import DET, MAKE, MARK
from utils.captions.rules.other_meanings import means_a_thing
from utils.captions.rules.wording_replacement import (
    CONNECTIVES,
    SENTENCE_END,
    join,
    remove_wording,
    replace_wording,
)
from utils.data.gestures import GESTURES

LONGEST = 1000  # characters; far more than a text encoder takes, and what stands behind is cut off
ABBREVIATIONS = {"mr", "mrs", "ms", "dr", "st", "jr", "sr", "vs", "no", "u.s", "e.g", "i.e"}
QUOTED = re.compile(rf"\b({MAKE} {DET})[\"'“”‘’](\w[^\"'“”‘’]{{0,30}})[\"'“”‘’](?!\w)", re.IGNORECASE)  # the "ok" sign
EMPTY_BRACKETS = re.compile(rf"[(\[{{\"“‘]\s*({MARK}?)\s*[)\]}}\"”’]")
PASSIVE = re.compile(r"^(.{1,60}?) (?:is|are|was|were)(?: being)? (?:given|shown|made|done|held up|displayed|flashed) "
                     r"by ([^.,;]+)", re.IGNORECASE)  # "a thumbs up is given by a man"
# A caption in quotation marks as a whole; an apostrophe inside a word or behind an s is none.
WHOLE_QUOTED = re.compile(
    r"(?:\"[^\"]*|'(?:[^']|(?<=\w)'(?=\w)|(?<=s)'(?= ))*|[“„][^“”]*|‘(?:[^‘’]|(?<=\w)’(?=\w))*|«[^«»]*|`[^`]*)"
    r"([\"'”’»`][.,!?]*)$")
TABLE_PHRASES = re.compile("|".join(phrase_pattern(g.phrase).pattern for g in GESTURES.values()), re.IGNORECASE)


def to_one_line(text):
    """`text` with every run of spaces and line breaks, of any alphabet, as one space; gestures are not quoted."""
    return QUOTED.sub(r"\1\2", " ".join(text.replace(MARK, " ").split()))


# Find


def is_innocent(text, start, end):
    """Whether what stands around text[start:end] makes a thing of it: a print, a poster, a quotation, a tree."""
    if text.startswith("of ", start):  # "a mural of a raised fist"
        start += 3
    is_quoted = text.count('"', 0, start) % 2 == 1 and '"' in text[end:] and not WHOLE_QUOTED.match(text)
    return is_quoted or means_a_thing(text, start, end)


def find_wording(text, own_name, kinds=None):
    """(start, end, kind) of the first wording of a gesture in `text`, the longest of those that start there.

    `kind` is a name of GESTURES, "another" (one that is not in the table) or "hand" (a hand is up, no more).
    Wording of a gesture's occasion, such as talking on a phone, counts only for the gesture `own_name`.
    `kinds` restricts the search.
    """
    found = []
    for kind, only_own, core, pattern in WORDINGS:
        if (kinds is not None and kind not in kinds) or (only_own and kind != own_name) or not core.search(text):
            continue
        match = pattern.search(text)
        while match and is_innocent(text, *match.span()):
            match = pattern.search(text, match.start() + 1)
        if match:
            found.append((*match.span(), kind))
    return min(found, key=lambda span: (span[0], -span[1]), default=None)


def find_other_gesture(text, target):
    """The words in `text`, outside of the phrase, that name another gesture than the target's; None if none do."""
    text = phrase_pattern(target.phrase).sub(MARK, to_one_line(text))
    if match := TABLE_PHRASES.search(text):
        return match.group()
    kinds = {*GESTURES, "another"} - {target.gesture.name}
    span = find_wording(text, target.gesture.name, kinds)
    return span and text[span[0]:span[1]].strip()


# Change


def append_phrase(text):
    """`text` with the mark at the end of its first sentence, before the full stop."""
    end = len(text)
    if quoted := WHOLE_QUOTED.match(text):
        end = quoted.start(1)
    for match in SENTENCE_END.finditer(text, 0, end):
        word = text[:match.start()].rsplit(" ", 1)[-1].lower().strip("(\"'“")
        follows = text[match.end() + 1:match.end() + 2]
        if not follows or not (word in ABBREVIATIONS or len(word) == 1 or follows.islower()):
            end = match.start()
            break
    left = text[:end].rstrip(" ,;:–-")
    return f"{left} {MARK}{text[end:]}".lstrip()


def shorten(text, target):
    """Drops words, the last ones behind the phrase first, then the last ones before it, until `text` fits."""
    left, right = (part.split() for part in text.split(MARK))

    def keep(count):
        before = " ".join(left[:count])
        before = before if count >= len(left) else CONNECTIVES.sub("", before)
        behind = right[:max(0, count - len(left))]
        tail = CONNECTIVES.sub("", " ".join(behind)) if len(behind) < len(right) else " ".join(behind)
        return join(join(before, MARK), tail)

    fewest, most = 0, len(left) + len(right)
    while fewest < most:  # the largest count that fits; a longer text never has fewer tokens
        middle = (fewest + most + 1) // 2
        if target.fits(keep(middle).replace(MARK, target.phrase)):
            fewest = middle
        else:
            most = middle - 1
    return keep(fewest)


def find_span(text, target):
    """(start, end) of the first wording of any gesture in `text`, whose phrase is marked; None if there is none."""
    phrase = TABLE_PHRASES.search(text)
    wording = find_wording(text, target.gesture.name)
    spans = [found for found in (phrase and phrase.span(), wording and wording[:2]) if found]
    return min(spans, key=lambda span: (span[0], -span[1]), default=None)


def enrich_once(text, target):
    """One pass of enrich_by_rules over a caption on one line: (text, what was done)."""
    text = phrase_pattern(target.phrase).sub(MARK, to_one_line(text))
    done = "kept" if MARK in text else "appended"
    if (passive := PASSIVE.match(text)) and find_span(passive[1], target) == (0, len(passive[1])):
        text = f"{passive[2]} giving {passive[1]}{text[passive.end():]}"
    while text.count(MARK) > 1:
        text = remove_wording(text, text.rindex(MARK), text.rindex(MARK) + 1)
    while span := find_span(text, target):
        if MARK in text:
            text = remove_wording(text, *span)
        else:
            done = "replaced"
            text = replace_wording(text, *span)
    text = " ".join(EMPTY_BRACKETS.sub(r"\1", text).split())
    if MARK not in text:
        text = append_phrase(text)
    if not target.fits(text.replace(MARK, target.phrase)):
        done, text = "shortened", shorten(text, target)
    return text.replace(MARK, target.phrase), done


def enrich_by_rules(caption, target):
    """(caption with the target's phrase exactly once, "kept" | "replaced" | "appended" | "shortened").

    The result is one line of at most target.max_tokens tokens without wording of another gesture; enriching it
    again changes nothing. Of a caption without room for a word the phrase alone is left.
    """
    text = to_one_line(caption)
    if len(text) > LONGEST:
        text = text[:LONGEST].rpartition(" ")[0]
    text, done = enrich_once(text, target)
    while (again := enrich_once(text, target)[0]) != text:  # what was brought together may read as a gesture
        text = again
    return text, done
