"""Hands brought to one place, size, side and palm direction, so that the mean of hands is a hand again."""

import numpy as np

from utils.hands.finger_states import MIDDLE_KNUCKLE, WRIST, palm_axes


def normalize_hand(hand):
    """World landmarks (21, 3) with the wrist at the origin, palm length 1, and left hands mirrored."""
    points = np.asarray(hand.world_landmarks, dtype=np.float64)
    points = points - points[WRIST]
    points = points / np.linalg.norm(points[MIDDLE_KNUCKLE])
    return points * (-1, 1, 1) if hand.handedness == "Left" else points


def canonical_landmarks(hand):
    """A Hand's pose alone: (21, 3) from the world landmarks, whatever its place, size, side and direction.

    Wrist at the origin, wrist to middle knuckle = (0, 1, 0), palm in the x-y plane, left hands mirrored.
    """
    points = normalize_hand(hand)
    return points @ palm_axes(points).T


def mean_canonical_hand(hands):
    """Mean of the canonical landmarks, turned to the mean direction of the palms: (21, 3), wrist at 0.

    Averaging after alignment keeps the bones of the mean at their length however the hands are turned. The
    mean direction stays in because it tells like from dislike: it is the rotation nearest to the mean of all
    palm axes (the chordal mean; Hartley et al., "Rotation Averaging", IJCV 2013).
    """
    mean_axes = np.mean([palm_axes(normalize_hand(hand)) for hand in hands], axis=0)
    u, _, vt = np.linalg.svd(mean_axes)
    axes = u @ np.diag([1.0, 1.0, np.sign(np.linalg.det(u @ vt))]) @ vt
    return np.mean([canonical_landmarks(hand) for hand in hands], axis=0) @ axes
