"""What MediaPipe's hands say of images: scores of one, counts and rates of many with their intervals."""

from dataclasses import dataclass
from pathlib import Path

from utils.hands.detector import best_hand
from utils.hands.finger_states import finger_states, matches_direction, matches_gesture
from utils.hands.landmarker import Hand
from utils.metrics.intervals import ratio_interval


@dataclass(frozen=True)
class ScoredImage:
    """One image and its hands: a list, [] where there is none, None where the image cannot be read.

    best: the hand with the highest score, None if there is no hand; what it shows counts. score: its score, or 0.
    """

    path: Path
    hands: list[Hand] | None
    best: Hand | None
    score: float
    shows_gesture: bool
    points_right: bool


def score_image(path, hands, gesture):
    """A ScoredImage; `hands` as from detector.detect_folder, gesture: a Gesture or None."""
    best = best_hand(hands)
    shows_gesture = bool(best and gesture and matches_gesture(best, gesture))
    points_right = shows_gesture and matches_direction(best, gesture)
    return ScoredImage(path, hands, best, best.score if best else 0.0, shows_gesture, points_right)


def measure_ratio(pairs, seed):
    """Sum of the numerators by the sum of the denominators of (n, 2) pairs, one per image, and its interval.

    (value, low, high), None for each where all denominators are 0. No interval where nothing varied: a bootstrap of
    equal values has no width, which says nothing of how sure they are.
    """
    numerators, denominators = zip(*pairs, strict=True) if pairs else ((), ())
    if not sum(denominators):
        return None, None, None
    low, high = ratio_interval(numerators, denominators, seed=seed)
    return sum(numerators) / sum(denominators), *((low, high) if low < high else (None, None))


def summarize_folder(scored, gesture, seed=0):
    """Counts and metrics of the ScoredImages of a folder, each metric with _low and _high: a dict."""
    readable = [image for image in scored if image.hands is not None]
    row = {"num_images": len(readable), "num_skipped": len(scored) - len(readable),
           "num_without_hand": sum(not image.hands for image in readable),
           "num_hands": sum(len(image.hands) for image in readable)}

    # What each image adds to the numerator and the denominator of each metric
    pairs = {"detection_rate": [(bool(image.hands), 1) for image in readable],
             "hand_conf": [(sum(hand.score for hand in image.hands), len(image.hands)) for image in readable],
             "hand_conf_zero_filled": [(image.score, 1) for image in readable],
             "hand_presence": [(sum(hand.presence for hand in image.hands), len(image.hands)) for image in readable],
             "hand_presence_zero_filled": [(max((hand.presence for hand in image.hands), default=0.0), 1)
                                           for image in readable]}
    if gesture:
        pairs["gesture_match_rate"] = [(image.shows_gesture, bool(image.hands)) for image in readable]
        pairs["gesture_match_rate_zero_filled"] = [(image.shows_gesture, 1) for image in readable]
        if gesture.direction != "any":
            pairs["direction_match_rate"] = [(image.points_right, image.shows_gesture) for image in readable]
    for name in pairs:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = measure_ratio(pairs[name], seed)
    return row


def list_fingers_out(hand):
    """Names of the fingers that are out, as text."""
    return " ".join(name for name, state in finger_states(hand.world_landmarks).items() if state == "out")
