"""Which fingers of a hand are out and which are folded, from its 3-D joints; whether they are a gesture's.

All measures of fingers are angles between lines in one hand, or lengths in palm lengths: its side, direction and
size do not matter. So like and dislike, peace and two_up, palm and stop, mute and one count as the same fingers here.
Where the thumb points in the picture is a question of its own. Whether fingers are spread, and whether the back of
the hand is seen, cannot be told from MediaPipe's landmarks: it takes 32-37 % of rendered backs for palms.
"""
import numpy as np

from utils.data.gestures import FINGERS

# Landmarks in MediaPipe's order
WRIST, THUMB_KNUCKLE, THUMB_TIP, INDEX_KNUCKLE, MIDDLE_KNUCKLE, LITTLE_KNUCKLE = 0, 2, 4, 5, 9, 17
# Calibrated on what MediaPipe says of 3,600 rendered hands of 18 gestures and 26 photographs of HaGRID (photographs:
# bend of a finger that is out at most 78°, folded at least 104°), checked on 1,800 others as landmarker.py sees them:
# median bend of a finger that is out 16°, folded 158°; median lean of a thumb that is out +32°, folded -42°. Wrong are
# 0.8 % of the fingers and of the thumbs, where the landmarks are off; docs/metrics.md has photographs.
FOLDED_BEND = 85.0  # degrees at the middle joint of a finger
THUMB_LEAN = -2.0  # degrees
# A finger held by the thumb, or in a ring with it, is often seen straighter than it is
TOUCH_BEND = 50.0  # degrees; a flat hand's thumb is as near to the index finger, but that is straight
TOUCH_DISTANCE = 0.5  # palm lengths between tips
FOLDED_TOUCH_DISTANCE = 0.65  # of a finger that is folded anyway, where no flat hand can be meant
THUMB_ELEVATION = 20.0  # degrees; rendered thumbs that point up have 19 to 88, down -28 to -84, for 98 in 100


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


def finger_bend(points):
    """How far index … little turn back at their middle joints: (4,) degrees.

    The angle is between the lines from the wrist to the joint and from the joint to the tip. Noise in the landmarks
    between them cannot add to it, as it does to a sum of the angles of all joints.
    """
    joints = points[INDEX_KNUCKLE + 1 :: 4]
    inner, outer = joints - points[WRIST], points[INDEX_KNUCKLE + 3 :: 4] - joints
    cosines = np.sum(inner * outer, axis=1) / (np.linalg.norm(inner, axis=1) * np.linalg.norm(outer, axis=1))
    return np.degrees(np.arccos(np.clip(cosines, -1, 1)))


def thumb_lean(points):
    """Angle in the palm plane from the palm's length to the thumb: degrees, > 0 away from the fingers."""
    across, along, _ = palm_axes(points) @ (points[THUMB_TIP] - points[THUMB_KNUCKLE])
    return float(np.degrees(np.arctan2(across, along)))


def touches_thumb(points):
    """Whether the tip of a bent index … little finger is at the tip of the thumb: (4,) bool."""
    gaps = points[INDEX_KNUCKLE + 3 :: 4] - points[THUMB_TIP]
    gaps = np.linalg.norm(gaps, axis=1) / np.linalg.norm(points[MIDDLE_KNUCKLE] - points[WRIST])
    bend = finger_bend(points)
    return (bend > TOUCH_BEND) & (gaps < np.where(bend < FOLDED_BEND, TOUCH_DISTANCE, FOLDED_TOUCH_DISTANCE))


def finger_states(points):
    """Name of each finger → "out" or "folded", from world landmarks (21, 3) in any unit.

    An index finger that closes a ring with the thumb is not out.
    """
    points = np.asarray(points, dtype=np.float64)
    fingers = (finger_bend(points) < FOLDED_BEND) & ~touches_thumb(points)
    out = [thumb_lean(points) > THUMB_LEAN, *fingers]
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
    return "touch" not in gesture.fingers or bool(touches_thumb(np.asarray(hand.world_landmarks, dtype=np.float64))[0])


def matches_direction(hand, gesture):
    """Whether the thumb of a Hand points where the Gesture's row says in the picture; True if it says "any".

    Unlike `matches_gesture` it depends on how the picture is turned. A thumb near the horizontal is neither.
    """
    x, y, _ = hand.world_landmarks[THUMB_TIP] - hand.world_landmarks[THUMB_KNUCKLE]  # y down
    elevation = float(np.degrees(np.arctan2(-y, abs(x))))
    return {"any": True, "up": elevation > THUMB_ELEVATION, "down": elevation < -THUMB_ELEVATION}[gesture.direction]
