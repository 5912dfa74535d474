"""What is asked of a language model, and what it says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A prompt, and how to draw the answer: the most probable words, or with `seed` other ones."""

    prompt: str
    seed: int
    is_greedy: bool


@dataclass(frozen=True)
class Answer:
    """What a model said; `is_whole` is False when it was cut at the longest answer allowed."""

    text: str
    is_whole: bool = True


class NoAnswerError(Exception):
    """A question that a server did not answer in all the attempts it was given."""
