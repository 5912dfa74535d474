"""The worst images of folders on one sheet, with the hands that were detected in them."""

from PIL import Image

from utils.data.images import contact_sheet, fit_square, open_image
from utils.hands.detector import draw_hands, zoom_hand
from utils.metrics.hand_scores import list_fingers_out
from utils.system.errors import one_line

IMAGES, COLUMNS, PIXELS = 16, 4, 192  # images per folder, images per row, longest side
CAPTION_LENGTH = 50  # characters of a file name that fit below an image


def pick_worst(scored):
    """The IMAGES readable ScoredImages that miss the gesture or score lowest, at most half of them without a hand."""
    readable = [image for image in scored if image.hands is not None]
    readable.sort(key=lambda image: (image.shows_gesture, image.score))
    empty = [image for image in readable if not image.hands]
    others = [image for image in readable if image.hands][:IMAGES]
    return [*empty[:max(IMAGES // 2, IMAGES - len(others))], *others][:IMAGES]


def describe_image(image, name, gesture):
    """Caption of an image: folder, file, then what was found in it."""
    file = image.path.name
    if len(file) > CAPTION_LENGTH:
        half = (CAPTION_LENGTH - 3) // 2
        file = f"{file[:half]}...{file[-half:]}"
    if not image.best:
        return f"{name} {file} no hand"
    fingers = list_fingers_out(image.best) or "none"
    verdict = "" if not gesture else f"{'shows' if image.shows_gesture else 'not'} {gesture.name},"
    return f"{name} {file} {image.score:.3f}, {verdict} out: {fingers}"


def draw_tile(image):
    """An image with a box around each hand, the best one's in red, and beside it that hand enlarged."""
    picture, best = open_image(image.path), image.best
    tile = fit_square(picture, PIXELS)
    tile = draw_hands(tile, [hand for hand in image.hands if hand is not best], "orange", with_bones=False)
    if not best:
        return tile
    pair = Image.new("RGB", (tile.width + 2 + PIXELS, PIXELS), "white")
    pair.paste(draw_hands(tile, [best], with_bones=False))
    pair.paste(zoom_hand(picture, best, PIXELS), (tile.width + 2, 0))
    return pair


def draw_sheet(scored, names, gesture):
    """The worst of each folder's ScoredImages, folder below folder."""
    sheets = []
    for name, images in zip(names, scored, strict=True):
        worst = pick_worst(images)
        captions = [one_line(describe_image(image, name, gesture)) for image in worst]
        sheets.append(contact_sheet([draw_tile(image) for image in worst], COLUMNS, captions, pad=6))
    return contact_sheet(sheets, 1)
