"""The phrase that an enriched caption must carry, and whether it does."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from utils.data.gestures import Gesture


@dataclass(frozen=True)
class Target:
    """What an enriched caption must carry, and how many tokens it may have (start and end included)."""

    gesture: Gesture
    phrase: str
    count_tokens: Callable[[str], int]
    max_tokens: int

    def fits(self, text):
        return self.count_tokens(text) <= self.max_tokens


def phrase_pattern(phrase):
    """`phrase` in any capitals as whole words; an "s" behind it belongs to it."""
    return re.compile(rf"(?<!\w){re.escape(phrase)}s?(?!\w)", re.IGNORECASE)


def has_phrase_once(text, phrase):
    """Whether `phrase` stands in `text` exactly so, as whole words, and no second time in other capitals."""
    found = phrase_pattern(phrase).findall(text)
    return found == [phrase] and text.count(phrase) == 1
