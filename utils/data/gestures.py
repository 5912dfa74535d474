"""The table of gestures: HaGRID name, the phrase a caption carries, and how the fingers are held.

All 33 gestures of HaGRID v2 have a phrase; the 18 of v1 also say how the hand looks, for the hand renderer
and the gesture match rate. `mute` and `one` are the same hand: what tells them apart is the face behind it.
"""

import difflib
from dataclasses import dataclass

from utils.system.errors import UserError

FINGERS = ("thumb", "index", "middle", "ring", "little")
FINGER_STATES = {
    "o": "out",  # straight
    "f": "folded",  # the tip on the palm; the thumb across it
    "t": "touch",  # the tip on the tip of the other finger in this state
    "a": "any",
}


@dataclass(frozen=True)
class Gesture:
    """One gesture. What does not matter for it is "any" or None; one of v2 has no `fingers` at all."""

    name: str  # HaGRID's folder and label
    phrase: str  # stands in every enriched caption, exactly so
    fingers: tuple[str, ...] | None = None  # thumb … little, values of FINGER_STATES
    direction: str = "any"  # the thumb's in the upright picture: "up", "down" or "any"
    fingers_spread: bool | None = None  # gaps between the fingers that are out (not the thumb), or none
    back_of_hand: bool | None = None  # what the camera sees: the back of the hand, or the palm


def row(name, words, fingers=None, **hand):
    """A Gesture from the middle of its phrase and one letter of FINGER_STATES per finger."""
    states = fingers and tuple(FINGER_STATES[letter] for letter in fingers)
    return Gesture(name, f"making {words} hand gesture", states, **hand)


GESTURES = {gesture.name: gesture for gesture in (
    # HaGRID v1             middle of the phrase         thumb … little
    row("call", "phone call", "offfo"),
    row("dislike", "thumbs down", "offff", direction="down"),
    row("fist", "fist", "fffff"),
    row("four", "four fingers up", "foooo"),
    row("like", "thumbs up", "offff", direction="up"),
    row("mute", "finger on lips", "fofff"),
    row("ok", "ok", "ttooo"),
    row("one", "one finger up", "fofff"),
    row("palm", "palm", "ooooo", fingers_spread=True),
    row("peace", "peace sign", "fooff", fingers_spread=True, back_of_hand=False),
    row("peace_inverted", "inverted peace sign", "fooff", fingers_spread=True, back_of_hand=True),
    row("rock", "rock and roll", "aoffo"),
    row("stop", "stop", "ooooo", fingers_spread=False, back_of_hand=False),
    row("stop_inverted", "inverted stop", "ooooo", fingers_spread=False, back_of_hand=True),
    row("three", "three fingers up", "fooof"),
    row("three2", "thumb and two fingers up", "oooff"),
    row("two_up", "two fingers together", "fooff", fingers_spread=False, back_of_hand=False),
    row("two_up_inverted", "inverted two fingers together", "fooff", fingers_spread=False, back_of_hand=True),
    # HaGRID v2
    row("grabbing", "grabbing"),
    row("grip", "grip"),
    row("hand_heart", "two-handed heart with open fingers"),
    row("hand_heart2", "two-handed heart"),
    row("holy", "praying hands"),
    row("little_finger", "little finger up"),
    row("middle_finger", "middle finger up"),
    row("point", "pointing"),
    row("take_picture", "picture frame"),
    row("three3", "index, middle and little fingers up"),
    row("three_gun", "three finger gun"),
    row("thumb_index", "thumb and index finger out"),
    row("thumb_index2", "two-handed thumb and index finger out"),
    row("timeout", "timeout"),
    row("xsign", "x sign"),
)}


def get_gesture(name):
    """The row of `name`. UserError with close matches and all names if there is none."""
    if name in GESTURES:
        return GESTURES[name]
    close = difflib.get_close_matches(str(name).lower(), GESTURES, n=3)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"no gesture {name!r}; {hint}There are: {', '.join(GESTURES)}")


def require_gesture(parser, name, flag="--gesture"):
    """The row of the table of gestures; a usage error with close matches if there is none."""
    try:
        return get_gesture(name)
    except UserError as error:
        parser.error(f"{flag}: {error}")
