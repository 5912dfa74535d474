"""Images and their lists: list, open (RGB, upright), resize, save; aligned file names and captions."""

import contextlib
import math
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.system.errors import UserError, warn
from utils.system.files import atomic_path

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm", ".pgm")
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")  # not EPS: it starts ghostscript
SAVE_OPTIONS = {".png": {"format": "PNG"}, ".jpg": {"format": "JPEG", "quality": 95}}
SAVE_OPTIONS[".jpeg"] = SAVE_OPTIONS[".jpg"]
PIXEL_LIMIT = Image.MAX_IMAGE_PIXELS  # 89 million; above it Pillow warns of a decompression bomb, we refuse
JPEG_SIDE = 65_500  # pixels; the longest that can be saved
DRAWN_CHARACTERS = 500  # of a caption; Pillow refuses a million
LARGE = 2**24  # pixels: 50 MB as RGB, and up to four times that while it is decoded
ORIENTATION_TAG = 0x0112
UPRIGHT = {  # EXIF orientation → what turns the image upright
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

warnings.filterwarnings("ignore", module=r"PIL\.")  # odd EXIF blocks; size is our own check


# Images


def list_images(folder):
    """The images directly in `folder`, sorted by name; hidden (so also half-written) ones left out.

    Warns of whatever else lies there, folders too, since images may be among it. UserError if `folder` is missing,
    not readable, or holds no image.
    """
    try:
        with os.scandir(folder) as entries:
            visible = [e for e in entries if not e.name.startswith(".")]
            names = sorted(e.name for e in visible if e.name.lower().endswith(IMAGE_SUFFIXES) and e.is_file())
    except OSError as error:
        raise UserError(f"{folder}: {error.strerror}; a folder with images is expected") from error
    if not names:
        folders = sorted(e.name for e in visible if e.is_dir())
        there = f"; it holds the folders {', '.join(folders[:5])}{' …' if folders[5:] else ''}" if folders else ""
        raise UserError(f"{folder}: no images in this folder (looked for {' '.join(IMAGE_SUFFIXES)}){there}")
    if len(visible) > len(names):
        other = min({e.name for e in visible} - set(names))
        warn(f"{folder}: {len(visible) - len(names)} files or folders in it are no images by their names and are "
             f"passed over, {other!r} for one")
    return [Path(folder, name) for name in names]


def open_image(path):
    """The image as upright 8-bit RGB: EXIF rotation applied, transparency on white, 16-bit grey scaled to 8.

    One of more than LARGE pixels is reduced by a whole factor to no more than that: nothing here looks at so many.
    UserError naming the file if it is missing, damaged, no image, or larger than PIXEL_LIMIT.
    """
    if not Path(path).is_file():  # a pipe would hang
        raise UserError(f"{path}: no such file")
    try:
        with Image.open(path, formats=FORMATS) as image:
            factor = reduction(image)
            if image.width * image.height <= PIXEL_LIMIT:
                size = image.size
                if factor == 2:  # at which a JPEG can be decoded at once; other formats take no notice
                    image.draft(image.mode, (image.width // 2, image.height // 2))
                image.load()
                upright = to_rgb(turn_upright(image))
                return upright.reduce(factor) if factor > 1 and image.size == size else upright
        problem = f"{image.width}×{image.height} pixels are more than the limit of {PIXEL_LIMIT:,}"
    except Exception as error:  # decoders raise almost anything on damaged data, all of it means that
        problem = f"cannot be read as an image ({error})"
    raise UserError(f"{path}: {problem}; replace or remove the file")


def reduction(image):
    """The whole factor by which the sides of `image` exceed LARGE pixels; 1 for most."""
    return max(1, math.ceil(math.sqrt(image.width * image.height / LARGE)))


def turn_upright(image):
    """`image` as its EXIF orientation wants it seen; a damaged EXIF block counts as none."""
    orientation = None
    with contextlib.suppress(Exception):
        orientation = image.getexif().get(ORIENTATION_TAG)
    return image.transpose(UPRIGHT[orientation]) if orientation in UPRIGHT else image


def to_rgb(image):
    """8-bit RGB from any mode of Pillow; transparent parts become white."""
    if image.mode == "F":
        raise ValueError("32-bit float pixels have no known range, expected 8 or 16 bit")
    if image.mode.startswith("I"):  # 16-bit grey: Pillow would clip at 255; 65535 / 257 = 255
        grey = np.clip(np.rint(np.asarray(image) / 257), 0, 255).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def resize_center_crop(image, resolution):
    """The centre square of `image`, resized (antialiased) to `resolution` × `resolution` pixels.

    Crops first, so that the long side of a 30,000×1 image is never scaled up.
    """
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side)
    return image.resize((resolution, resolution), Image.Resampling.LANCZOS, box=box)


def fit_square(image, pixels):
    """`image` scaled so that its longer side has `pixels`; the shorter one keeps at least one, of 30,000×1 too."""
    scale = pixels / max(image.size)
    return image.resize(tuple(max(1, round(side * scale)) for side in image.size), Image.Resampling.BICUBIC)


def save_image(image, path):
    """Writes PNG or JPEG (quality 95) by suffix, whole or not at all.

    UserError for any other suffix, and for a JPEG that would be longer than the format allows.
    """
    options = SAVE_OPTIONS.get(Path(path).suffix.lower())
    if options is None:
        raise UserError(f"{path}: images are saved as {', '.join(SAVE_OPTIONS)}; use one of these suffixes")
    if options["format"] == "JPEG" and max(image.size) > JPEG_SIDE:
        raise UserError(f"{path}: {image.width}×{image.height} pixels are too many for a JPEG, whose sides have up to "
                        f"{JPEG_SIDE:,}; give a name that ends in .png")
    with atomic_path(path) as temporary:
        image.save(temporary, **options)


def wrap_text(text, font, width):
    """Lines of at most `width` pixels, broken at spaces where there are any."""
    lines = [""]
    for word in text.split():
        joined = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], joined] if not lines[-1] or font.getlength(joined) <= width else [*lines, word]
    return lines


def contact_sheet(images, columns, captions=None, pad=2):
    """All `images` on one white sheet, row by row, `pad` pixels apart, each with its caption below."""
    if not images or (captions is not None and len(captions) != len(images)):
        raise ValueError("a contact sheet needs at least one image, and no captions or one for each")
    columns = min(columns, len(images))
    width, height = max(i.width for i in images), max(i.height for i in images)
    font = ImageFont.load_default(size=11)
    texts = [wrap_text(caption[:DRAWN_CHARACTERS], font, width) for caption in captions or []]
    line_height = sum(font.getmetrics())
    cell_width, cell_height = width + pad, height + pad + line_height * max(map(len, texts), default=0)
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (pad + columns * cell_width, pad + rows * cell_height), "white")
    draw = ImageDraw.Draw(sheet)
    for i, image in enumerate(images):
        left, top = pad + i % columns * cell_width, pad + i // columns * cell_height
        sheet.paste(image, (left, top))
        if texts:
            draw.text((left, top + height), "\n".join(texts[i]), fill="black", font=font, spacing=0)
    return sheet


def to_array(image):
    """An RGB image as float32 (3, H, W) in [-1, 1], as a VAE wants it."""
    pixels = np.asarray(image, dtype=np.float32) / 127.5 - 1
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


# Lists of names and captions


def read_lines(path):
    """The lines of a UTF-8 text file without their ends; a byte-order mark and CRLF are tolerated.

    UserError for a missing or empty file and, naming the line, for undecodable bytes, NUL and empty lines.
    """
    try:
        data = Path(path).read_bytes()
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: not UTF-8 ({error.reason}); save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a text file is expected") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if lines[-1] == "":
        lines.pop()
    if not lines:
        raise UserError(f"{path}: the file is empty; at least one line is expected")
    for number, line in enumerate(lines, 1):
        if "\0" in line or not line.strip():
            problem = "holds a NUL character" if "\0" in line else "is empty"
            raise UserError(f"{path}, line {number}: {problem}; every line must hold one entry")
    return lines


def write_lines(path, lines):
    """Writes what `read_lines` reads, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")


def read_aligned(filenames_path, captions_path):
    """(names, captions), line by line. UserError naming both files if their lengths differ."""
    names, captions = read_lines(filenames_path), read_lines(captions_path)
    if len(names) != len(captions):
        raise UserError(f"{filenames_path} has {len(names)} lines but {captions_path} has {len(captions)}; "
                        "each name needs exactly one caption")
    return names, captions


def safe_join(folder, name):
    """`folder`/`name`. UserError if `name` is empty, absolute, has NUL or "..", or leaves `folder` by a link.

    The file itself may be a link: data folders are made of them.
    """
    parts = Path(name).parts
    path = Path(folder, name)
    if not parts or "\0" in name or ".." in parts or Path(name).is_absolute():
        raise UserError(f"{name!r}: not a file name inside {folder}; names must be relative, without '..'")
    if not Path(os.path.realpath(path.parent)).is_relative_to(os.path.realpath(folder)):
        raise UserError(f"{name!r}: leads out of {folder} through a link; remove the link or the name")
    return path
