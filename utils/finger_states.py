"""Which fingers of a hand are out and which are folded, from its 3-D joints; whether they are a gesture's.

All measures are angles between bones of one hand, or lengths in palm lengths: its side, direction and size do
not matter. So like and dislike, peace and two_up, palm and stop, mute and one count as the same fingers here.
"""
import numpy as np

from utils.gestures import FINGERS

# Landmarks in MediaPipe's order
WRIST, THUMB_KNUCKLE, THUMB_TIP, INDEX_KNUCKLE, MIDDLE_KNUCKLE, LITTLE_KNUCKLE = 0, 2, 4, 5, 9, 17
# Calibrated on what MediaPipe says of 720 rendered hands of 18 gestures and 26 photographs of HaGRID: median
# flexion of a finger that is out 53°, folded 204° (photographs: at most 102°, at least 137°); median lean of
# a thumb that is out +34°, folded -36°. Wrong are 3.4 % of the fingers and 1.1 % of the thumbs, mostly where
# MediaPipe's landmarks are off.
FOLDED_FLEXION = 110.0  # degrees, sum of the three joints of a finger
THUMB_LEAN = -2.0  # degrees
TOUCH_DISTANCE = 0.5  # palm lengths between tips; in the ring of ok about 0.3, in an open hand above 0.55


def palm_axes(points):
    """Orthonormal axes of the palm of a hand (21, 3) as the rows of (3, 3).

    Rows: across the palm to the index finger, from wrist to middle knuckle, and their cross product.
    `points @ palm_axes(points).T` is the hand with its palm in the x-y plane, fingers along +y.
    """
    along = points[MIDDLE_KNUCKLE] - points[WRIST]
    along = along / np.linalg.norm(along)
    across = points[INDEX_KNUCKLE] - points[LITTLE_KNUCKLE]
    across = across - (across @ along) * along
    across = across / np.linalg.norm(across)
    return np.stack([across, along, np.cross(across, along)])


def finger_flexion(points):
    """How far index … little are bent: (4,) degrees, the sum of the angles at the three joints of each."""
    flexion = []
    for knuckle in range(INDEX_KNUCKLE, len(points), 4):
        bones = np.diff(points[[WRIST, *range(knuckle, knuckle + 4)]], axis=0)  # (4, 3), metacarpal first
        bones = bones / np.linalg.norm(bones, axis=1, keepdims=True)
        cosines = np.sum(bones[:-1] * bones[1:], axis=1)
        flexion.append(np.degrees(np.arccos(np.clip(cosines, -1, 1))).sum())
    return np.array(flexion)


def thumb_lean(points):
    """Angle in the palm plane from the palm's length to the thumb: degrees, > 0 away from the fingers."""
    across, along, _ = palm_axes(points) @ (points[THUMB_TIP] - points[THUMB_KNUCKLE])
    return float(np.degrees(np.arctan2(across, along)))


def tip_distance(points, finger, other):
    """Distance of the tips of two fingers (0 thumb … 4 little) in palm lengths."""
    gap = points[4 * finger + 4] - points[4 * other + 4]
    return float(np.linalg.norm(gap) / np.linalg.norm(points[MIDDLE_KNUCKLE] - points[WRIST]))


def finger_states(points):
    """Name of each finger → "out" or "folded", from world landmarks (21, 3) in any unit.

    A finger that bends round to the tip of the thumb, as in ok, is not out.
    """
    points = np.asarray(points, dtype=np.float64)
    out = [thumb_lean(points) > THUMB_LEAN]
    for finger, flexion in enumerate(finger_flexion(points), 1):
        out.append(flexion < FOLDED_FLEXION and tip_distance(points, 0, finger) > TOUCH_DISTANCE)
    return {name: "out" if is_out else "folded" for name, is_out in zip(FINGERS, out, strict=True)}


def matches_gesture(hand, gesture):
    """Whether the fingers of a Hand are those of the Gesture's row; direction, spread and view don't count.

    ValueError for a gesture without a row of fingers (those that only HaGRID v2 has).
    """
    if gesture.fingers is None:
        raise ValueError(f"the table of gestures has no fingers for {gesture.name!r}")
    pairs = zip(finger_states(hand.world_landmarks).values(), gesture.fingers, strict=True)
    if any(found != wanted for found, wanted in pairs if wanted in ("out", "folded")):
        return False
    touching = [finger for finger, wanted in enumerate(gesture.fingers) if wanted == "touch"]
    return not touching or tip_distance(np.asarray(hand.world_landmarks), *touching) < TOUCH_DISTANCE
