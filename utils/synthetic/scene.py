"""A picture of one rendered hand with everything that is known about it: caption, landmarks, box, anatomy."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from utils.synthetic.hand import POSES, HandModel, pose_hand, random_pose, rotation
from utils.synthetic.raymarch import HandShape, View, surface, trace

# sRGB, back of the hand; the palm of darker hands is lighter
SKIN_TONES = {
    "pale": (240, 204, 184),
    "light": (224, 177, 147),
    "tan": (196, 143, 106),
    "brown": (141, 93, 66),
    "dark": (88, 58, 44),
}
COLORS = {
    "white": (232, 232, 228),
    "grey": (132, 134, 138),
    "black": (34, 34, 38),
    "red": (178, 44, 44),
    "yellow": (226, 196, 64),
    "green": (62, 138, 76),
    "blue": (52, 96, 176),
    "purple": (118, 70, 150),
    "teal": (40, 140, 146),
    "navy": (30, 42, 86),
}
CONTRAST = 60  # least difference of skin and background in one channel, 8-bit
SUPERSAMPLING = 2
PALM_SHARE = (0.28, 0.38)  # wrist to middle knuckle, as a share of the picture's side
LARGEST_SHARE = 0.88  # of the picture's side, for the whole hand


@dataclass
class Scene:
    """A rendered picture and its truth. `landmarks` (21, 2) and `box` (x, y, w, h) are relative to the image."""

    image: Image.Image
    caption: str
    gesture: str  # a name of POSES, or "random"
    handedness: str
    skin: str
    background: str
    sleeve: str | None
    malformation: str | None
    landmarks: np.ndarray
    box: tuple[float, float, float, float]
    fingers: list[str]  # state of thumb .. little
    model: HandModel
    view: View


def render_scene(rng, gesture, resolution, malformation=None):
    """Render one hand; `gesture` is a name of POSES or "random". All chance comes from `rng` (numpy Generator)."""
    pose = random_pose(rng) if gesture == "random" else POSES[gesture]
    skin = str(rng.choice(list(SKIN_TONES)))
    background = str(rng.choice([name for name in COLORS if stands_out(SKIN_TONES[skin], COLORS[name])]))
    sleeve = str(rng.choice([c for c in COLORS if c != background])) if rng.random() < 0.5 else None
    left = bool(rng.random() < 0.5)
    model = pose_hand(rng, pose, malformation=malformation)

    # Camera: turn the hand, then scale and shift so that the hand without its arm fills a varied part of the picture
    turn = rotation((0, 0, 1), (pose.roll + rng.normal(0, 9)) * (-1 if left else 1))
    turn = turn @ rotation((1, 0, 0), pose.pitch + rng.normal(0, 9))
    turn = turn @ rotation((0, 1, 0), (pose.yaw + rng.normal(0, 13)) * (-1 if left else 1))
    joints = np.concatenate([np.zeros((1, 3))] + [digit.joints for digit in model.digits])
    placed, _ = View(turn, 1.0, (0, 0), left).project(joints)
    low, high = placed[:, :2].min(0) - 0.16, placed[:, :2].max(0) + 0.16
    scale = min(2 * rng.uniform(*PALM_SHARE), 2 * LARGEST_SHARE / max(high - low))
    room = np.maximum(1.0 - scale * (high - low) / 2, 0.0)
    shift = rng.uniform(-0.8, 0.8, 2) * room - scale * (low + high) / 2
    view = View(turn, scale, tuple(shift), left)

    # Draw at twice the size, then average
    cuff = rng.uniform(0.2, 0.34) if sleeve else None
    shape = HandShape(model, view, arm_bend=(rng.normal(0, 0.35), rng.normal(0, 0.25)), sleeve=cuff)
    size = resolution * SUPERSAMPLING
    depth = trace(shape, size)
    picture = paint_background(rng, COLORS[background], size)
    rows, columns = np.nonzero(np.isfinite(depth))
    picture[rows, columns] = shade(rng, shape, model, view, depth, SKIN_TONES[skin], COLORS.get(sleeve))
    picture = picture[::-1].reshape(resolution, SUPERSAMPLING, resolution, SUPERSAMPLING, 3).mean((1, 3))
    picture = picture + rng.normal(0, 0.006, picture.shape)
    image = Image.fromarray((picture.clip(0, 1) * 255 + 0.5).astype(np.uint8))

    landmarks, _ = view.project(model.landmarks)
    landmarks = np.stack([(landmarks[:, 0] + 1) / 2, (1 - landmarks[:, 1]) / 2], axis=1)
    corner, opposite = scale * low + shift, scale * high + shift
    box = (
        (corner[0] + 1) / 2,
        (1 - opposite[1]) / 2,
        (opposite[0] - corner[0]) / 2,
        (opposite[1] - corner[1]) / 2,
    )
    handedness = "left" if left else "right"
    wearing = f" with a {sleeve} sleeve" if sleeve else ""
    caption = f"a photo of a {skin} {handedness} hand{wearing} in front of a {background} background"
    return Scene(
        image,
        caption,
        gesture,
        handedness,
        skin,
        background,
        sleeve,
        malformation,
        landmarks,
        tuple(float(np.clip(v, 0, 1)) for v in box),
        [pose.thumb, *map(str, pose.fingers)],
        model,
        view,
    )


def stands_out(skin, color):
    """Whether a hand of this skin colour can be told from a wall of this colour (both 8-bit RGB)."""
    return max(abs(a - b) for a, b in zip(skin, color, strict=True)) > CONTRAST


def smooth_noise(rng, size, cells):
    """Low-frequency noise in about [-1, 1]: (size, size) float32."""
    coarse = Image.fromarray(rng.normal(0, 0.5, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((size, size), Image.BICUBIC))


def paint_background(rng, color, size):
    """A wall of one colour under uneven light: (size, size, 3) float in [0, 1]."""
    wall = np.asarray(color) / 255 * rng.normal(1.0, 0.06) + rng.normal(0, 0.015, 3)
    ramp = (np.linspace(-1, 1, size)[:, None] * rng.normal(0, 0.1)) + np.linspace(-1, 1, size) * rng.normal(0, 0.1)
    light = 1 + ramp + 0.09 * smooth_noise(rng, size, 4)
    return wall * light[..., None]


def shade(rng, shape, model, view, depth, skin, sleeve):
    """Colours of the visible surface points: (N, 3) float in [0, 1], in the order of np.nonzero(isfinite(depth))."""
    points, normals, ambient = surface(shape, depth)
    skin = np.asarray(skin) / 255
    palmar = np.clip((normals @ view.rotation)[:, 2], 0, 1)[:, None]
    pink = np.array([0.80, 0.56, 0.48])
    albedo = skin + palmar * 0.45 * (np.maximum(pink, skin) - skin)
    nearest = shape.nearest_part(points)
    blotch = smooth_noise(rng, len(depth), 12)[np.nonzero(np.isfinite(depth))][:, None]
    albedo = albedo * (1 + 0.04 * blotch)

    for at, digit in enumerate(model.digits):
        joints, zoom = view.project(digit.joints)
        along = joints[3] - joints[2]
        length = np.linalg.norm(along)
        along = along / length
        nail = view.rotation @ (digit.nail * ((-1, 1, 1) if view.left else (1, 1, 1)))
        side = np.cross(along, nail)
        on_tip = np.nonzero(nearest == shape.palm_parts + 3 * at + 2)[0]
        local = points[on_tip] - joints[2]
        reach = np.clip(local @ along / length, 0, 1.3)[:, None]
        albedo[on_tip] *= 1 + reach * (np.array([0.05, -0.05, -0.05]) * (0.4 + 0.6 * palmar[on_tip]))
        radius = digit.radii[3] * zoom[3]
        u = (local @ along - 0.88 * length) / (0.36 * length + 0.2 * radius)
        v = (local @ side) / (0.78 * radius)
        plate = (normals[on_tip] @ nail > 0.3) & (u**2 + v**2 < 1)
        albedo[on_tip[plate]] = 0.62 * skin + 0.38 * np.array([0.98, 0.82, 0.80])

    if sleeve is not None:
        albedo[nearest == shape.sleeve_part] = np.asarray(sleeve) / 255

    # One lamp, sky light, a faint gloss
    lamp = np.array([rng.normal(0, 0.55), rng.uniform(0.1, 0.9), 1.0])
    lamp /= np.linalg.norm(lamp)
    glance = lamp + (0, 0, 1)
    glance /= np.linalg.norm(glance)
    sky = rng.uniform(0.42, 0.60)
    diffuse = np.clip(normals @ lamp, 0, 1)
    gloss = 0.10 * np.clip(normals @ glance, 0, 1) ** 24
    light = (sky * (0.25 + 0.75 * ambient) + (1.12 - sky) * diffuse * (0.45 + 0.55 * ambient)) * rng.normal(1.0, 0.05)
    return albedo * light[:, None] + gloss[:, None] * ambient[:, None]
