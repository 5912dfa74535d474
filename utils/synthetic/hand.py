"""Hand skeleton: the 21 MediaPipe joints of a right hand, posed per gesture or at random, right or malformed.

Frame: wrist at the origin, fingers along +y, palm towards the viewer (+z), thumb on +x. The unit of length is the
distance from the wrist to the knuckle of the middle finger; angles are in degrees. Proportions follow the usual
anthropometric tables of the adult hand, rounded.
"""

from dataclasses import dataclass, field

import numpy as np

FINGERS = ("thumb", "index", "middle", "ring", "little")
MALFORMATIONS = ("missing", "extra", "fused", "bent")

# Knuckle, phalanx lengths, radii at knuckle / PIP / DIP / tip
KNUCKLES = {
    "index": (0.28, 0.97, 0.0),
    "middle": (0.04, 1.0, 0.0),
    "ring": (-0.19, 0.94, 0.0),
    "little": (-0.39, 0.82, 0.0),
}
PHALANGES = {
    "thumb": (0.46, 0.37, 0.30),
    "index": (0.49, 0.29, 0.23),
    "middle": (0.54, 0.33, 0.24),
    "ring": (0.49, 0.31, 0.24),
    "little": (0.38, 0.23, 0.21),
}
RADII = {
    "thumb": (0.165, 0.135, 0.128, 0.098),
    "index": (0.134, 0.116, 0.105, 0.083),
    "middle": (0.136, 0.119, 0.107, 0.085),
    "ring": (0.130, 0.112, 0.102, 0.081),
    "little": (0.114, 0.098, 0.088, 0.070),
}
THUMB_BASE = (0.25, 0.20, 0.07)
REST_FAN = {
    "index": 3.0,
    "middle": 0.0,
    "ring": -3.0,
    "little": -7.0,
}  # direction of the fingers held together
SPREAD_FAN = {"index": 13.0, "middle": 2.0, "ring": -9.0, "little": -22.0}

# Flexion at MCP, PIP, DIP
FLEXION = {
    "out": (4.0, 5.0, 4.0),
    "half": (38.0, 48.0, 28.0),
    "folded": (98.0, 108.0, 70.0),
    "hold": (80.0, 102.0, 56.0),  # the little finger of three, under the thumb
}

# Directions of the three thumb bones, and where the thumb nail looks
THUMB = {
    "out": ((0.80, 0.52, 0.22), (0.78, 0.62, 0.08), (0.70, 0.71, -0.05), (0.35, -0.45, -0.6)),
    "side": ((0.86, 0.45, 0.30), (0.97, 0.25, 0.05), (0.99, 0.02, -0.12), (0.2, -0.8, -0.4)),
    "alongside": ((0.62, 0.76, 0.22), (0.28, 0.95, 0.12), (0.10, 0.99, 0.05), (0.75, 0.0, -0.6)),
    "over": ((0.55, 0.56, 0.62), (-0.16, 0.42, 0.89), (-0.93, 0.34, 0.02), (0.0, -0.25, 1.0)),
    "across": ((0.48, 0.66, 0.58), (-0.52, 0.72, 0.42), (-0.88, 0.46, 0.02), (0.0, -0.3, 1.0)),
}


@dataclass(frozen=True)
class Pose:
    """How a gesture is held: a state per finger (index to little), the thumb, the fan, and the turn of the hand."""

    fingers: tuple[str, str, str, str]
    thumb: str = "over"
    fan: float = 0.0  # 0: fingers held together, 1: spread
    roll: float = 0.0  # turn in the image plane, counter-clockwise on a right hand
    yaw: float = 0.0  # turn about the long axis of the hand; 180 shows its back
    pitch: float = 0.0
    thumb_on: str | None = None  # the bent finger on whose back the thumb presses, in place of the directions in THUMB


OUT, FOLDED, HOLD, TOUCH = "out", "folded", "hold", "touch"
POSES = {
    "call": Pose((FOLDED, FOLDED, FOLDED, OUT), "side", 1.0, roll=12, pitch=8),
    "dislike": Pose((FOLDED, FOLDED, FOLDED, FOLDED), "out", roll=-105, yaw=6),
    "fist": Pose((FOLDED, FOLDED, FOLDED, FOLDED), "over", thumb_on="middle"),
    "four": Pose((OUT, OUT, OUT, OUT), "across", 0.85),
    "like": Pose((FOLDED, FOLDED, FOLDED, FOLDED), "out", roll=75, yaw=6),
    "mute": Pose((OUT, FOLDED, FOLDED, FOLDED), "over", yaw=18, pitch=12, thumb_on="middle"),
    "ok": Pose((TOUCH, OUT, OUT, OUT), TOUCH, 0.9, yaw=8, pitch=5),
    "one": Pose((OUT, FOLDED, FOLDED, FOLDED), "over", pitch=12, thumb_on="middle"),
    "palm": Pose((OUT, OUT, OUT, OUT), "out", 1.0),
    "peace": Pose((OUT, OUT, FOLDED, FOLDED), "over", 1.35, thumb_on="ring"),
    "peace_inverted": Pose((OUT, OUT, FOLDED, FOLDED), "over", 1.35, yaw=180, thumb_on="ring"),
    "rock": Pose((OUT, FOLDED, FOLDED, OUT), "over", 0.8, pitch=12, thumb_on="middle"),
    "stop": Pose((OUT, OUT, OUT, OUT), "alongside", 0.0),
    "stop_inverted": Pose((OUT, OUT, OUT, OUT), "alongside", 0.0, yaw=180),
    "three": Pose((OUT, OUT, OUT, HOLD), "across", 1.3, pitch=8, thumb_on="little"),
    "three2": Pose((OUT, OUT, FOLDED, FOLDED), "out", 1.1, pitch=12),
    "two_up": Pose((OUT, OUT, FOLDED, FOLDED), "over", 0.0, pitch=12, thumb_on="ring"),
    "two_up_inverted": Pose((OUT, OUT, FOLDED, FOLDED), "over", 0.0, yaw=180, thumb_on="ring"),
}


@dataclass
class Finger:
    """One digit: joints (4, 3) from knuckle to tip, radii (4,), and where the nail looks (3,)."""

    name: str
    joints: np.ndarray
    radii: np.ndarray
    nail: np.ndarray


@dataclass
class HandModel:
    """A posed right hand. `landmarks` holds the 21 intended joints, in MediaPipe's order."""

    digits: list[Finger]
    fused: list[tuple[int, int]] = field(default_factory=list)  # pairs of digits grown together
    landmarks: np.ndarray | None = None  # (21, 3)
    malformation: str | None = None


def _unit(vector):
    vector = np.asarray(vector, dtype=np.float64)
    return vector / np.linalg.norm(vector)


def rotation(axis, degrees):
    """Rotation matrix (3, 3) about `axis` (Rodrigues)."""
    x, y, z = _unit(axis)
    angle = np.radians(degrees)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def bend_finger(name, knuckle, lengths, radii, fan, flexion, sideways=(0.0, 0.0, 0.0)):
    """A finger from its knuckle: `fan` turns it in the palm plane, `flexion` bends each joint towards the palm."""
    frame = rotation((0, 0, 1), -fan)
    joints = [np.asarray(knuckle, dtype=np.float64)]
    for length, bend, side in zip(lengths, flexion, sideways, strict=True):
        frame = frame @ rotation((0, 0, 1), side) @ rotation((1, 0, 0), bend)
        joints.append(joints[-1] + length * frame[:, 1])
    return Finger(name, np.array(joints), np.array(radii), -frame[:, 2])


def bend_thumb(lengths, radii, directions, nail):
    """A thumb from the directions of its three bones."""
    joints = [np.asarray(THUMB_BASE, dtype=np.float64)]
    for length, direction in zip(lengths, directions, strict=True):
        joints.append(joints[-1] + length * _unit(direction))
    along = _unit(directions[-1])
    nail = np.asarray(nail, dtype=np.float64)
    return Finger("thumb", np.array(joints), np.array(radii), _unit(nail - (nail @ along) * along))


def reach_thumb(lengths, radii, target, metacarpal, elbow):
    """A thumb whose tip meets `target` (3,), or points to it: its two outer bones bend like an arm.

    `metacarpal` (3,) is the direction of the first bone, `elbow` (3,) the side to which the joint of the others goes.
    """
    metacarpal = _unit(metacarpal)
    start = np.asarray(THUMB_BASE) + lengths[0] * metacarpal
    gap = target - start
    distance = min(np.linalg.norm(gap), 0.98 * (lengths[1] + lengths[2]))
    # law of cosines for the angle between the proximal bone and the line to the target
    cosine = (lengths[1] ** 2 + distance**2 - lengths[2] ** 2) / (2 * lengths[1] * distance)
    outward = np.asarray(elbow)
    outward = _unit(outward - (outward @ _unit(gap)) * _unit(gap))
    proximal = cosine * _unit(gap) + np.sqrt(max(0.0, 1 - cosine**2)) * outward
    distal = target - (start + lengths[1] * proximal)
    return bend_thumb(lengths, radii, (metacarpal, proximal, distal), outward)


def place_thumb_on(finger, radius):
    """Where the tip of a thumb of this radius is that presses on the back of a bent finger's middle bone."""
    knuckle, middle, outer, _ = finger.joints
    along = outer - middle
    proximal = middle - knuckle
    back = _unit(proximal - (proximal @ _unit(along)) * _unit(along))
    return middle + 0.6 * along + 0.9 * (finger.radii[1] + radius) * back  # 0.9: soft skin gives way


def pose_hand(rng, pose, jitter=1.0, malformation=None):
    """Pose a hand with individual proportions. `malformation` is None or one of MALFORMATIONS.

    Returns a HandModel in the palm frame (not yet turned to the camera).
    """
    stretch = {name: rng.normal(1.0, 0.04) for name in FINGERS}
    thick = rng.normal(1.0, 0.07)
    lengths = {name: np.array(PHALANGES[name]) * stretch[name] for name in FINGERS}
    radii = {name: np.array(RADII[name]) * np.clip(thick, 0.85, 1.2) for name in FINGERS}
    spread = pose.fan + jitter * rng.normal(0, 0.12)

    digits = []
    for name, state in zip(FINGERS[1:], pose.fingers, strict=True):
        fan = REST_FAN[name] + spread * (SPREAD_FAN[name] - REST_FAN[name]) + jitter * rng.normal(0, 1.5)
        if state == TOUCH:
            flexion, fan = (56.0, 60.0, 30.0), 4.0
        else:
            if state in (FOLDED, HOLD):
                fan = 0.5 * REST_FAN[name]
            flexion = FLEXION[state]
        flexion = np.array(flexion) + jitter * rng.normal(0, (5.0, 6.0, 4.0))
        digits.append(bend_finger(name, KNUCKLES[name], lengths[name], radii[name], fan, np.maximum(flexion, -8.0)))

    if pose.thumb == TOUCH:
        tip = digits[0].joints[3]
        target = tip + np.array([0.03, -0.07, 0.11])
        thumb = reach_thumb(lengths["thumb"], radii["thumb"], target, (0.62, 0.50, 0.60), (0.9, -0.2, 0.25))
    elif pose.thumb_on is not None:
        finger = digits[FINGERS[1:].index(pose.thumb_on)]
        target = place_thumb_on(finger, radii["thumb"][3]) + jitter * rng.normal(0, 0.03, 3)
        thumb = reach_thumb(lengths["thumb"], radii["thumb"], target, (0.30, 0.80, 0.45), (0.2, 1.0, 0.6))
    else:
        *directions, nail = THUMB[pose.thumb]
        directions = [np.asarray(d) + jitter * rng.normal(0, 0.06, 3) for d in directions]
        thumb = bend_thumb(lengths["thumb"], radii["thumb"], directions, nail)
    digits.insert(0, thumb)

    landmarks = np.concatenate([np.zeros((1, 3))] + [digit.joints for digit in digits])
    model = HandModel(digits, landmarks=landmarks)
    if malformation is not None:
        _malform(rng, model, malformation, lengths)
    return model


def random_pose(rng):
    """A pose with every finger at its own whim, seen from the front or the back."""
    fingers = tuple(rng.choice(["out", "half", "folded"], size=4, p=[0.5, 0.12, 0.38]))
    thumb = str(rng.choice(["out", "side", "alongside", "over", "across"]))
    roll = float(rng.choice([0, 0, 0, 0, 80, -80]))
    return Pose(fingers, thumb, float(rng.uniform(0, 1.1)), roll, 180.0 if rng.random() < 0.2 else 0.0)


def _malform(rng, model, malformation, lengths):
    """Give `model` one wrong digit or pair of digits, in place."""
    digits = model.digits
    model.malformation = malformation
    if malformation == "missing":
        del digits[rng.integers(1, 5)]
    elif malformation == "extra":
        at = int(rng.integers(1, 5))
        near, far = digits[at], digits[at + 1] if at < 4 else None
        shift = 0.5 * (far.joints[0] - near.joints[0]) if far is not None else np.array([-0.2, -0.1, 0.0])
        lean = rotation((0, 0, 1), rng.uniform(2, 9))
        joints = near.joints[0] + shift + (near.joints - near.joints[0]) @ lean.T * rng.uniform(0.85, 1.0)
        joints[1:, 2] += rng.uniform(-0.03, 0.05)
        digits.append(Finger("extra", joints, near.radii * 0.92, near.nail))
    elif malformation == "fused":
        at = int(rng.integers(1, 4))
        shift = 0.82 * (digits[at + 1].joints[0] - digits[at].joints[0])
        digits[at + 1].joints = digits[at].joints * (1, 0.97, 1) + shift
        model.fused.append((at, at + 1))
    elif malformation == "bent":
        at = int(rng.integers(1, 5))
        name = FINGERS[at]
        sideways = np.zeros(3)
        sideways[rng.integers(1, 3)] = rng.choice([-1, 1]) * rng.uniform(45, 80)
        flexion = (rng.uniform(-5, 20), rng.uniform(-45, 10), rng.uniform(-40, 10))
        digits[at] = bend_finger(name, KNUCKLES[name], lengths[name], digits[at].radii, 0.0, flexion, sideways)
    else:
        raise ValueError(f"malformation {malformation!r} is none of {MALFORMATIONS}")
