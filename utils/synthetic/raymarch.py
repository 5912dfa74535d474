"""Draw a posed hand: a smooth union of tapered capsules, sphere-traced along parallel rays and shaded with numpy.

Distance fields, the polynomial smooth minimum and ambient occlusion by distance samples are textbook sphere tracing
(Hart 1996; Quilez, "distance functions"). Perspective is put into the skeleton (every joint and radius is scaled by
its depth), so that all rays stay parallel and one matrix product gives the distances of all points to all capsules.
"""

from dataclasses import dataclass

import numpy as np

from utils.synthetic.hand import RADII

PALM_BLEND, FINGER_BLEND, JOINT_BLEND, FUSED_BLEND = 0.10, 0.08, 0.008, 0.30
MARCH_STEPS = 40
BLOCK = 2048  # points at a time
SURFACE = 2e-3


@dataclass(frozen=True)
class View:
    """Where the hand is in the picture: rotation (3, 3), size and place in units of half the picture, mirrored."""

    rotation: np.ndarray
    scale: float
    shift: tuple[float, float]
    left: bool = False
    distance: float = 6.0  # camera distance in hand units, for the perspective

    def project(self, points):
        """Hand frame (..., 3) -> picture frame, x right, y up, both in [-1, 1], and the local scale (...)."""
        points = np.asarray(points, dtype=np.float64)
        turned = (points - (0.0, 0.75, 0.0)) * ((-1, 1, 1) if self.left else (1, 1, 1)) @ self.rotation.T
        zoom = self.scale * self.distance / (self.distance - turned[..., 2])
        placed = turned * zoom[..., None]
        placed[..., :2] += self.shift
        return placed, zoom


class HandShape:
    """Signed distance to a posed hand in the picture frame."""

    def __init__(self, model, view, arm_bend=(0.0, 0.0), sleeve=None):
        elbow = np.array([arm_bend[0], -2.6, arm_bend[1]])
        knuckles = [digit.joints[0] for digit in model.digits if digit.name not in ("thumb", "extra")]
        thick = model.digits[0].radii[0] / RADII["thumb"][0]
        parts = [((0, -0.02, 0), elbow, 0.19, 0.25)]
        for knuckle in knuckles:
            parts.append((0.12 * knuckle + (0, 0.02, 0), knuckle * (1, 0.97, 1), 0.175, 0.132))
        parts.append(((0.16, 0.12, 0.03), model.digits[0].joints[1] * 0.9 + (0.0, 0.02, 0.0), 0.17, 0.15))  # thenar
        parts.append(((-0.17, 0.16, 0.03), (-0.32, 0.62, 0.02), 0.17, 0.14))  # hypothenar
        web = 0.45 * model.digits[0].joints[1] + 0.55 * np.array((0.27, 0.8, 0.0))
        parts.append(((0.15, 0.45, 0.02), web, 0.15, 0.10))
        self.palm_parts = len(parts)
        self.digits = len(model.digits)
        for digit in model.digits:
            for bone in range(3):
                parts.append((*digit.joints[bone : bone + 2], digit.radii[bone], digit.radii[bone + 1]))
        self.fused = model.fused
        self.sleeve = sleeve is not None
        if self.sleeve:
            parts.append((elbow * sleeve, elbow, 0.30, 0.36))

        starts, a_zoom = view.project(np.array([part[0] for part in parts]))
        ends, b_zoom = view.project(np.array([part[1] for part in parts]))
        self.starts, self.bones = starts.astype(np.float32), (ends - starts).astype(np.float32)
        self.start_radii = (np.array([part[2] * thick for part in parts]) * a_zoom).astype(np.float32)
        self.end_radii = (np.array([part[3] * thick for part in parts]) * b_zoom).astype(np.float32)
        self.unit = view.scale
        self.squared_lengths = np.maximum((self.bones**2).sum(1), 1e-9)
        self.rows = np.concatenate([self.starts, self.bones])  # (2K, 3)
        self.start_squares = (self.starts**2).sum(1)[:, None]
        self.start_dots = (self.starts * self.bones).sum(1)[:, None]

    def capsule_distances(self, points):
        """Distance of every capsule to every point: (N, 3) -> (K, N)."""
        count = len(self.starts)
        products = self.rows @ points.T
        along = products[count:]
        along -= self.start_dots
        squared_lengths = self.squared_lengths[:, None]
        height = along / squared_lengths
        np.clip(height, 0.0, 1.0, out=height)
        squares = products[:count]
        squares *= -2.0
        squares += (points**2).sum(1)
        squares += self.start_squares
        along *= -2.0
        along += height * squared_lengths
        along *= height
        squares += along
        np.sqrt(np.maximum(squares, 0.0, out=squares), out=squares)
        height *= (self.end_radii - self.start_radii)[:, None]
        squares -= height
        squares -= self.start_radii[:, None]
        return squares

    def distance(self, points):
        """Signed distance of every point to skin or sleeve: (N, 3) -> (N,). Goes by blocks that fit in the cache."""
        blocks = [self.block_distance(points[i : i + BLOCK]) for i in range(0, len(points), BLOCK)]
        return np.concatenate(blocks) if blocks else np.empty(0, dtype=np.float32)

    def block_distance(self, points):
        """`distance` of a few thousand points."""
        parts = self.capsule_distances(points)
        palm = parts[0]
        for part in parts[1 : self.palm_parts]:
            palm = smooth_minimum(palm, part, PALM_BLEND * self.unit)
        skin, tubes = palm, []
        for digit in range(self.digits):
            proximal, middle, distal = parts[self.palm_parts + 3 * digit : self.palm_parts + 3 * digit + 3]
            tube = smooth_minimum(proximal, middle, JOINT_BLEND * self.unit)
            tubes.append(smooth_minimum(tube, distal, JOINT_BLEND * self.unit))
            skin = np.minimum(skin, smooth_minimum(palm, proximal, FINGER_BLEND * self.unit))
        for one, other in self.fused:
            skin = np.minimum(skin, smooth_minimum(tubes[one], tubes[other], FUSED_BLEND * self.unit))
        for tube in tubes:
            skin = np.minimum(skin, tube)
        return np.minimum(skin, parts[-1]) if self.sleeve else skin

    def sample_spheres(self):
        """Spheres along every capsule, closer together than their radii: centres (M, 3) and radii (M,)."""
        counts = np.ceil(1.5 * np.sqrt(self.squared_lengths) / self.start_radii).astype(int) + 2
        along = np.concatenate([np.linspace(0, 1, count) for count in counts]).astype(np.float32)
        owner = np.repeat(np.arange(len(counts)), counts)
        centres = self.starts[owner] + along[:, None] * self.bones[owner]
        return centres, self.start_radii[owner] + along * (self.end_radii - self.start_radii)[owner]

    def nearest_part(self, points):
        """Index of the nearest capsule of each point, the sleeve's being `sleeve_part`: (N, 3) -> (N,)."""
        return self.capsule_distances(points).argmin(0)

    @property
    def sleeve_part(self):
        """The sleeve's index among the capsules; none has it where there is no sleeve."""
        return self.palm_parts + 3 * self.digits


def smooth_minimum(a, b, width):
    """Polynomial smooth minimum; equal to the plain minimum where |a - b| >= width."""
    overlap = a - b
    np.abs(overlap, out=overlap)
    np.subtract(width, overlap, out=overlap)
    np.maximum(overlap, 0.0, out=overlap)
    overlap *= overlap
    overlap *= 0.25 / width
    return np.minimum(a, b) - overlap


def trace(shape, size):
    """Depth of the front surface on a size x size grid, -inf where a ray misses: (size, size) float32."""
    # A height map of slightly inflated spheres along the bones: every ray starts close above the surface
    grid = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    start = np.full((size, size), -np.inf, dtype=np.float32)
    inflate = 0.5 * PALM_BLEND * shape.unit
    centres, radii = shape.sample_spheres()
    for (x, y, z), radius in zip(centres, radii + inflate, strict=True):
        x0, x1 = np.searchsorted(grid, (x - radius, x + radius))
        y0, y1 = np.searchsorted(grid, (y - radius, y + radius))
        if x0 == x1 or y0 == y1:
            continue
        room = radius**2 - (grid[x0:x1] - x) ** 2 - (grid[y0:y1, None] - y) ** 2
        window = start[y0:y1, x0:x1]
        np.maximum(window, np.where(room > 0, z + np.sqrt(np.maximum(room, 0)), -np.inf), out=window)

    rows, columns = np.nonzero(np.isfinite(start))
    points = np.stack([grid[columns], grid[rows], start[rows, columns]], axis=1)
    floor = centres[:, 2].min()
    active = np.arange(len(points))
    hit = np.zeros(len(points), dtype=bool)
    for _ in range(MARCH_STEPS):
        gap = shape.distance(points[active])
        points[active, 2] -= gap
        close = gap < SURFACE * shape.unit
        hit[active[close]] = True
        active = active[~close & (points[active, 2] > floor)]
        if len(active) == 0:
            break
    hit[active] = shape.distance(points[active]) < 4 * SURFACE
    depth = np.full((size, size), -np.inf, dtype=np.float32)
    depth[rows[hit], columns[hit]] = points[hit, 2]
    return depth


def surface(shape, depth):
    """Points, unit normals and ambient occlusion in [0, 1] where `depth` is finite: (N, 3), (N, 3), (N,)."""
    size = len(depth)
    grid = ((np.arange(size) + 0.5) * 2 / size - 1).astype(np.float32)
    rows, columns = np.nonzero(np.isfinite(depth))
    points = np.stack([grid[columns], grid[rows], depth[rows, columns]], axis=1)
    step = np.float32(0.012 * shape.unit)
    corners = np.array([(1, -1, -1), (-1, -1, 1), (-1, 1, -1), (1, 1, 1)], dtype=np.float32)
    normals = sum(corner * shape.distance(points + step * corner)[:, None] for corner in corners)
    normals /= np.linalg.norm(normals, axis=1, keepdims=True) + 1e-9
    occlusion = np.zeros(len(points), dtype=np.float32)
    for reach, weight in ((0.06, 0.55), (0.16, 0.45)):
        reach *= shape.unit
        occlusion += weight * np.clip(1 - shape.distance(points + normals * np.float32(reach)) / reach, 0, 1)
    return points, normals, 1 - occlusion
