"""What takes the place of a gesture's wording in a caption, and what goes with wording that is taken out."""

import re

from utils.captions.rules.gesture_words import (
    HANDS_END,
    MARK,
    OWNER,
    PARTICIPLES,
    PAST_FORMS,
    PEOPLE,
    PLURAL_FORMS,
    SINGULAR_FORMS,
    WITH_FINGERS,
    compile_pattern,
)

SENTENCE_END = re.compile(r"[.!?…]+(?= |$)")
# What holds a removed wording to the words before it, and may not stay at the end of a shortened caption.
CONNECTIVES = re.compile(r"(?:(?:^|[ ,;:/]+)(?:and|while|with|then|also|by|as|is|are|was|were|who|that|he|she|they|it"
                         r"|a|an|the|his|her|their|in|on|of|at|to|for|or|but))*[ ,;:/–-]*$", re.IGNORECASE)
TARGETS = re.compile(r" (?:at|to|towards?|for) (?:(?:the|his|her) )?"
                     r"(?:camera|viewer|photographer|crowd|audience|him|her|them|us|you|someone)\b", re.IGNORECASE)

NOUN_LEAD = re.compile(r"\b(?:an? (?!(?:couple|group|pair|crowd|bunch|team|family) )(?:[\w-]+ )?"
                       r"|(?:the|his|her|their) )$", re.IGNORECASE)
SUBJECT = re.compile(r"((?:an?|the|two|both|one|his|her|their) )?"
                     r"(?:(?:left|right|raised|closed|open|clenched|balled|outstretched|extended) )*"
                     r"(hands?|fingers(?= are ))"
                     r"(?! (?:signs?|gestures?|signals?|symbols?|shapes?|motions?|hearts?)\b)\b", re.IGNORECASE)
OWNED = re.compile(r"(?:\w['’]s|s['’]|(whose)) $", re.IGNORECASE)  # of "a man's thumb is up", a hand stays
OWN_HAND = re.compile(r"(?:(?:left|right|raised|closed|open|clenched|middle|index|little|ring|both|two|clasped"
                      r"|folded) )*(?:(hands)|hand|thumb|finger|palm|fist|pinky|arm)", re.IGNORECASE)
# Hands that are all there is to see: "a close up of a man's fist" is about a hand
ALONE = re.compile(r"(of )?(?:(.*['’]s )|(?:(two|both|the|his|her|their)|an?|) ?)(?:\w+ )*?(?:fist|palm)(s?)\b"
                   r"(?! (?:signs?|gestures?|hand|bump|pump)\b)", re.IGNORECASE)
PAST_SUBJECT = re.compile(r"\b(?:(he|she|it|who|that)|they|we|you) $", re.IGNORECASE)  # "she did …" is no "she ~"
HELPING = re.compile(r"\b(?:has|have|had) (?:(?:just|already|also|been) )*$", re.IGNORECASE)  # "she has made …"
# What points at something, and is no longer said to: "pointing at the camera with his finger"
AFTER_TARGET = compile_pattern(
    rf"(?<={MARK})((?: (?:up|at|to|towards?|behind)){{1,2}} (?:{OWNER} )?\w+) {WITH_FINGERS}{HANDS_END}")
# Who is left without a verb: "a man making a fist while a boy makes a fist", "he is making a fist. A boy is too"
VERBLESS = re.compile(
    rf"(?:[ ,;]+(and|while|as|but|whereas)|[.!]) ((?:an?|the|another|his|her|their|some|one) (?:\w+ ){{0,2}}?"
    rf"(?:{PEOPLE}|others?|friends?))$", re.IGNORECASE)


def join(left, right):
    """Two pieces of a caption with the right space and punctuation between them."""
    left, right = left.rstrip(), right.lstrip()
    if not left:
        return right.lstrip(" ,;:.")
    if left[-1] in "([{“‘" or right[:1] in tuple(")]}”’"):
        return left + right
    if not right or right[0] in ".,;:!?…" or re.fullmatch(r"[\"'][.,!?]*", right):
        return left.rstrip(" ,;:") + right
    return f"{left} {right}"


def replacement(text, start, end):
    """The mark of the phrase with the verb that text[start:end] needs: "gives …" becomes "is making …"."""
    first = text[start:end].lower().split(maxsplit=1)[0]
    if (start == 0 or first == "of") and (alone := ALONE.match(text, start, end)):
        of, owner, article, plural = alone.groups()
        owner = owner or f"{article or 'a'} " if not plural or article else owner or ""
        return f"{of or ''}{owner}hand{plural} {MARK}"
    if first == "of":  # "a photo of thumbs up"
        return f"of {MARK}"
    if (owned := OWNED.search(text[:start])) and (hand := OWN_HAND.match(text, start, end)):
        return f"{'hands' if hand[1] else 'hand'}{' is' if owned[1] else ''} {MARK}"
    if first in PAST_FORMS and (subject := PAST_SUBJECT.search(text[:start])):
        return f"{'is' if subject[1] else 'are'} {MARK}"
    if start == 0 and (subject := SUBJECT.match(text, start, end)):  # "a hand in a fist" is about the hand
        return f"{re.sub('n $', ' ', subject[1] or '')}{subject[2]} {MARK}"
    if first in PLURAL_FORMS and NOUN_LEAD.search(text[:start]):  # "in a pose with …", "the sign of …"
        return f"{text[start:end].split(maxsplit=1)[0]} {MARK}"
    if first in PLURAL_FORMS:
        is_infinitive = re.search(r"\b(?:to|can|will|would|could|may|might|not|n't)$", text[:start].rstrip().lower())
        return ("be " if is_infinitive else "are ") + MARK
    return ("is " if first in SINGULAR_FORMS else "") + MARK


def replace_wording(text, start, end):
    """`text` with the mark of the phrase, and the verb that it needs, in the place of text[start:end]."""
    if text[start:end].lower().split(maxsplit=1)[0] in PAST_FORMS | PARTICIPLES:
        helping = HELPING.search(text[:start])
        start = helping.start() if helping else start
    text = join(join(text[:start], replacement(text, start, end)), text[end:])
    return AFTER_TARGET.sub(r"\1", text)


def remove_wording(text, start, end):
    """`text` without text[start:end], what connects it, and a sentence of which only "he is" is left.

    Who would stand without a verb then is put beside the one who makes the gesture.
    """
    match = TARGETS.match(text, end)
    right = re.sub(rf"^[ ,]*(?:and|while) (?={MARK})", " ", text[match.end() if match else end:])
    left = CONNECTIVES.sub("", text[:start])
    is_finite = (re.search(r" (?:is|are|was|were) $", text[:start])
                 or text[start:end].lower().split(maxsplit=1)[0] in SINGULAR_FORMS | PLURAL_FORMS | PAST_FORMS)
    if MARK in left and (who := VERBLESS.search(left)) and (is_finite or (who[1] or "") not in ("", "and")):
        left = f"{left[:who.start()]} beside {who[2][0].lower()}{who[2][1:]}"
    closing = SENTENCE_END.match(right.lstrip())
    if (not left or left[-1] in ".!?…") and (closing or not right.strip()):
        return join(left, right.lstrip()[closing.end():] if closing else "")
    return join(left, right)
