"""utils/data/images.py: whatever lies on disk comes out as upright RGB, or as one line that names the file."""

import os
import re
import resource
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from utils.data import images
from utils.data.images import open_image
from utils.system.errors import UserError

ORIENTATION_TAG = 0x0112


def halves(left, right, mode="RGB", size=(8, 6)):
    """An image of two flat halves."""
    image = Image.new(mode, size, right)
    image.paste(left, (0, 0, size[0] // 2, size[1]))
    return image


def open_saved(path, image, **options):
    image.save(path, **options)
    opened = images.open_image(path)
    assert opened.mode == "RGB"
    return opened


def refused(path, *parts):
    with pytest.raises(UserError) as caught:
        images.open_image(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


# Opening


@pytest.mark.parametrize(("mode", "left", "right", "suffix", "expected"), [
    ("L", 10, 200, ".png", [(10, 10, 10), (200, 200, 200)]),
    ("1", 0, 1, ".png", [(0, 0, 0), (255, 255, 255)]),
    ("RGBA", (255, 0, 0, 255), (0, 0, 255, 0), ".png", [(255, 0, 0), (255, 255, 255)]),
    ("RGBA", (0, 0, 0, 128), (0, 0, 255, 255), ".webp", [(127, 127, 127), (0, 0, 255)]),
    ("LA", (10, 255), (10, 0), ".png", [(10, 10, 10), (255, 255, 255)]),
    ("CMYK", (0, 255, 255, 0), (0, 0, 0, 255), ".tif", [(255, 0, 0), (0, 0, 0)]),
    ("CMYK", (0, 255, 255, 0), (0, 0, 0, 255), ".jpg", [(255, 0, 0), (0, 0, 0)]),
    ("I;16", 0, 65535, ".png", [(0, 0, 0), (255, 255, 255)]),
    ("I;16", 128 * 257, 1000, ".tif", [(128, 128, 128), (4, 4, 4)]),
    ("I", 257, 65535, ".pgm", [(1, 1, 1), (255, 255, 255)]),
    ("RGB", (255, 0, 0), (0, 0, 255), ".bmp", [(255, 0, 0), (0, 0, 255)]),
])
def test_every_mode_becomes_rgb(tmp_path, mode, left, right, suffix, expected):
    options = {"lossless": True} if suffix == ".webp" else {"quality": 100} if suffix == ".jpg" else {}
    image = open_saved(tmp_path / f"image{suffix}", halves(left, right, mode, (32, 16)), **options)
    found = [image.getpixel((1, 1)), image.getpixel((30, 14))]
    assert np.abs(np.subtract(found, expected)).max() <= (3 if suffix == ".jpg" else 1)


def test_transparent_palette_entries_become_white(tmp_path):
    image = halves(0, 1, "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    opened = open_saved(tmp_path / "one_entry.png", image, transparency=1)
    assert (opened.getpixel((0, 0)), opened.getpixel((7, 0))) == ((255, 0, 0), (255, 255, 255))
    opened = open_saved(tmp_path / "table.png", image, transparency=b"\x00\x80")
    assert (opened.getpixel((0, 0)), opened.getpixel((7, 0))) == ((255, 255, 255), (127, 127, 255))


def test_a_transparent_colour_of_an_rgb_png_becomes_white(tmp_path):
    opened = open_saved(tmp_path / "a.png", halves((9, 9, 9), (0, 0, 255)), transparency=(9, 9, 9))
    assert (opened.getpixel((0, 0)), opened.getpixel((7, 0))) == ((255, 255, 255), (0, 0, 255))


def test_the_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    opened = open_saved(tmp_path / "a.gif", frames[0], save_all=True, append_images=frames[1:])
    assert opened.getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    upright = halves((255, 0, 0), (0, 0, 255), size=(64, 32))
    upright.paste((0, 255, 0), (0, 16, 32, 32))  # red and green on the left, blue on the right
    # EXIF 2.32, 4.6.4: at which sides of the picture row 0 and column 0 of the file are seen.
    row_0, column_0 = ["top left", "top right", "bottom right", "bottom left",
                       "left top", "right top", "right bottom", "left bottom"][orientation - 1].split()
    pixels = np.asarray(upright)
    if row_0 in ("left", "right"):
        pixels = pixels.transpose(1, 0, 2)
    step = {"top": 1, "left": 1, "bottom": -1, "right": -1}
    pixels = pixels[::step[row_0], ::step[column_0]]
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    options = {"quality": 100, "subsampling": 0} if suffix == ".jpg" else {}
    opened = open_saved(tmp_path / f"a{suffix}", Image.fromarray(pixels.copy()), exif=exif, **options)
    assert opened.size == upright.size
    assert np.abs(np.asarray(opened, int) - np.asarray(upright, int)).max() <= 4


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_damaged_exif_block_does_not_refuse_the_image(tmp_path):
    opened = open_saved(tmp_path / "a.jpg", Image.new("RGB", (8, 8), "red"), exif=b"Exif\0\0II*\0\xff\xff")
    assert opened.size == (8, 8)
    profile = PngImagePlugin.PngInfo()
    profile.add_text("Raw profile type exif", "\nexif\n 10\nno hexadecimal digits")
    assert open_saved(tmp_path / "a.png", Image.new("RGB", (8, 8), "red"), pnginfo=profile).size == (8, 8)


def test_the_suffix_does_not_matter_but_the_format_does(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "png.jpg", format="PNG")
    assert images.open_image(tmp_path / "png.jpg").getpixel((0, 0)) == (255, 0, 0)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "eps.jpg", format="EPS")  # Pillow would run ghostscript
    refused(tmp_path / "eps.jpg", "cannot identify")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif", ".gif"])
def test_truncated_files_are_refused_by_name(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[:-500])
    refused(path, "cannot be read")


def test_what_is_no_image_is_refused_by_name(tmp_path):
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "text.jpg").write_text("not an image")
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "float.tif")
    os.mkfifo(tmp_path / "pipe.jpg")
    refused(tmp_path / "empty.jpg", "cannot be read")
    refused(tmp_path / "text.jpg", "cannot be read")
    refused(tmp_path / "float.tif", "32-bit float")
    refused(tmp_path / "none.jpg", "no such file")
    refused(tmp_path, "no such file")
    refused(tmp_path / "pipe.jpg", "no such file")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [9500, 50_000])  # Pillow only warns; Pillow refuses too
def test_a_decompression_bomb_is_refused_before_it_unpacks(tmp_path, side):
    path = tmp_path / "bomb.png"
    Image.new("1", (8, 8)).save(path)
    data = bytearray(path.read_bytes())
    data[16:24] = 2 * side.to_bytes(4, "big")  # the header of a PNG: width, height, …, checksum
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    refused(path, "pixels", "limit")


# Listing, resizing, saving


def test_list_images_is_sorted_takes_only_visible_image_files_and_tells_of_the_rest(tmp_path, capsys):
    for name in ("b.PNG", "a.jpg", "c d é.jpeg", "-e.webp", "f.JFIF", "g.jpe", ".hidden.jpg"):
        (tmp_path / name).touch()
    assert len(images.list_images(tmp_path)) == 6 and capsys.readouterr().err == ""
    for name in ("notes.txt", "jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "a.jpg")
    assert [path.name for path in images.list_images(tmp_path)] == [
        "-e.webp", "a.jpg", "b.PNG", "c d é.jpeg", "f.JFIF", "g.jpe", "link.jpg"]
    assert "4 files or folders in it are no images" in (warning := capsys.readouterr().err)
    assert "'folder.jpg' for one" in warning and warning.count("\n") == 1


def test_a_folder_without_images_is_a_user_error(tmp_path):
    (tmp_path / "notes.txt").touch()
    for folder, reason in ((tmp_path, "no images"), (tmp_path / "none", "No such file"),
                           (tmp_path / "notes.txt", "Not a directory")):
        with pytest.raises(UserError, match=reason) as caught:
            images.list_images(folder)
        assert str(folder) in str(caught.value)


def test_a_folder_of_folders_is_told_by_their_names(tmp_path):
    for name in ("call", ".hidden", "fist"):
        (tmp_path / name).mkdir()
    with pytest.raises(UserError, match=r"it holds the folders call, fist$"):
        images.list_images(tmp_path)


@pytest.mark.parametrize("resolution", [30, 60, 10])
def test_resize_center_crop_equals_resizing_the_short_side_and_cropping(resolution):
    image = Image.effect_noise((90, 30), 20).convert("RGB")
    whole = image.resize((3 * resolution, resolution), Image.Resampling.LANCZOS)
    expected = np.asarray(whole, int)[:, resolution:2 * resolution]
    assert np.abs(np.asarray(images.resize_center_crop(image, resolution), int) - expected).max() <= 1
    tall = images.resize_center_crop(image.transpose(Image.Transpose.TRANSPOSE), resolution)
    assert np.abs(np.asarray(tall, int) - expected.transpose(1, 0, 2)).max() <= 2  # rounds rows before columns


@pytest.mark.parametrize(("size", "expected"), [
    ((400, 200), (100, 50)), ((3, 6), (50, 100)), ((30_000, 1), (100, 1)), ((1, 1), (100, 100)),
])
def test_fit_square_keeps_the_shape_and_at_least_one_pixel(size, expected):
    assert images.fit_square(Image.new("RGB", size), 100).size == expected


def test_resize_center_crop_is_antialiased():
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255  # every second column: a filter that skips columns gives black or white
    small = np.asarray(images.resize_center_crop(Image.fromarray(stripes), 32), int)
    assert np.abs(small - 127.5).max() < 10


@pytest.mark.parametrize("size", [(30_000, 1), (1, 30_000), (1, 1), (2, 3)])
def test_extreme_shapes_cost_no_more_than_others(size):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert images.resize_center_crop(Image.new("RGB", size, "red"), 512).getpixel((511, 0)) == (255, 0, 0)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # KiB


def test_saved_images_come_back(tmp_path):
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    images.save_image(image, tmp_path / "new" / "a.png")
    assert np.array_equal(np.asarray(images.open_image(tmp_path / "new" / "a.png")), np.asarray(image))
    images.save_image(image, tmp_path / "a.JPG")
    difference = np.asarray(images.open_image(tmp_path / "a.JPG"), int) - np.asarray(image, int)
    assert 0 < np.abs(difference).mean() < 6


def test_an_image_that_cannot_be_saved_leaves_the_former_one(tmp_path):
    images.save_image(Image.new("RGB", (8, 8), "red"), tmp_path / "a.jpg")
    with pytest.raises(OSError):
        images.save_image(Image.new("RGBA", (8, 8)), tmp_path / "a.jpg")
    assert images.open_image(tmp_path / "a.jpg").getpixel((4, 4))[0] > 250
    assert os.listdir(tmp_path) == ["a.jpg"]
    with pytest.raises(UserError, match="a.bmp"):
        images.save_image(Image.new("RGB", (8, 8)), tmp_path / "a.bmp")
    images.save_image(Image.new("RGB", (65_500, 1)), tmp_path / "a.jpg")
    with pytest.raises(UserError, match="a.jpg: 65501×1 pixels are too many for a JPEG.* ends in .png"):
        images.save_image(Image.new("RGB", (65_501, 1)), tmp_path / "a.jpg")


def test_a_contact_sheet_holds_every_image_in_its_cell():
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0), (90, 90, 90)]
    sheet = images.contact_sheet([Image.new("RGB", (10, 8), colour) for colour in colours], columns=3, pad=2)
    assert sheet.size == (2 + 3 * 12, 2 + 2 * 10)
    assert [sheet.getpixel((2 + 12 * (i % 3), 2 + 10 * (i // 3))) for i in range(5)] == colours
    assert sheet.getpixel((0, 0)) == sheet.getpixel((12, 5)) == sheet.getpixel((30, 15)) == (255, 255, 255)


def test_captions_stand_below_their_images_and_inside_their_columns():
    cells = [Image.new("RGB", (60, 20), "red")] * 2
    sheet = images.contact_sheet(cells, 2, ["a hand in front of a wall, waving", ""], pad=4)
    sheet = np.asarray(sheet.convert("L"))
    below = sheet[4 + 20:] < 128  # rows of text: dark
    assert below[:, 4:64].sum() > 50 and below[:, 66:].sum() == 0
    assert len(sheet) > 4 + 20 + 2 * 10  # more than one line
    assert images.contact_sheet(cells, 2, ["a" * 1_100_000, ""]).width == 2 + 2 * 62


def test_a_contact_sheet_needs_images_and_matching_captions():
    with pytest.raises(ValueError):
        images.contact_sheet([], 2)
    with pytest.raises(ValueError):
        images.contact_sheet([Image.new("RGB", (4, 4))], 2, ["a", "b"])


def test_to_array_is_channels_first_in_minus_one_to_one():
    array = images.to_array(halves((0, 255, 51), (255, 255, 255)))
    assert array.shape == (3, 6, 8) and array.dtype == np.float32 and array.flags["C_CONTIGUOUS"]
    assert np.allclose(array[:, 0, 0], [-1, 1, -0.6]) and array.max() == 1


# Lists


def text_file(tmp_path, data, name="names.txt"):
    path = tmp_path / name
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(("data", "lines"), [
    (b"a\nb\n", ["a", "b"]), (b"a\nb", ["a", "b"]), (b"a\r\nb\r\n", ["a", "b"]), (b"a\rb\r", ["a", "b"]),
    (b"\xef\xbb\xbfa\n", ["a"]), (" é \u2028x\x0c\n".encode(), [" é \u2028x\x0c"]),
])
def test_read_lines_tolerates_bom_crlf_and_a_missing_last_newline(tmp_path, data, lines):
    assert images.read_lines(text_file(tmp_path, data)) == lines


@pytest.mark.parametrize(("data", "parts"), [
    (b"", ["empty"]), (b"\xef\xbb\xbf", ["empty"]), (b"\n", ["line 1", "empty"]), (b"a\n\nb\n", ["line 2"]),
    (b"a\nb\n\n", ["line 3", "empty"]), (b"a\n  \n", ["line 2", "empty"]), (b"a\nb\0c\n", ["line 2", "NUL"]),
    (b"a\n\xff\n", ["line 2", "UTF-8"]), ("a\n".encode("utf-16"), ["line 1", "UTF-8"]),
])
def test_read_lines_refuses_the_rest_and_names_the_line(tmp_path, data, parts):
    path = text_file(tmp_path, data)
    with pytest.raises(UserError) as caught:
        images.read_lines(path)
    for part in (str(path), *parts):
        assert part in str(caught.value)


def test_read_lines_of_a_missing_file_or_a_folder_is_a_user_error(tmp_path):
    for path in (tmp_path / "none.txt", tmp_path):
        with pytest.raises(UserError, match=path.name):
            images.read_lines(path)


def test_read_aligned_refuses_lists_of_different_lengths(tmp_path):
    names = text_file(tmp_path, b"1.jpg\n2.jpg\n")
    captions = text_file(tmp_path, b"one\ntwo\n", "captions.txt")
    assert images.read_aligned(names, captions) == (["1.jpg", "2.jpg"], ["one", "two"])
    captions.write_bytes(b"one\n")
    with pytest.raises(UserError) as caught:
        images.read_aligned(names, captions)
    for part in (f"{names} has 2", f"{captions} has 1"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["", ".", "/etc/passwd", "..", "../a", "a/../../b", "a/..", "a\0b", "out/a"])
def test_safe_join_refuses_names_that_leave_the_folder(tmp_path, name):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "out").symlink_to(tmp_path)
    with pytest.raises(UserError, match=re.escape(repr(name))):
        images.safe_join(folder, name)


@pytest.mark.parametrize("name", ["a.jpg", "sub/a.jpg", "./a.jpg", "-a.jpg", "..a", "a b\né.jpg", "inside/a"])
def test_safe_join_keeps_names_inside_the_folder(tmp_path, name):
    (tmp_path / "inside").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").mkdir()
    assert images.safe_join(tmp_path, name) == tmp_path / name


def test_safe_join_refuses_absolute_names_even_of_files_inside_the_folder(tmp_path):
    with pytest.raises(UserError, match="relative"):
        images.safe_join(tmp_path, str(tmp_path / "a.jpg"))


def test_a_linked_image_may_lie_elsewhere(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").symlink_to(tmp_path / "hagrid" / "a.jpg")
    assert images.safe_join(tmp_path / "data", "a.jpg") == tmp_path / "data" / "a.jpg"


@pytest.mark.parametrize("factor", [2, 3])
@pytest.mark.parametrize(("suffix", "mode"), [("png", "RGB"), ("png", "RGBA"), ("jpg", "RGB"), ("jpg", "L")])
def test_an_image_larger_than_anybody_looks_at_is_reduced_by_a_whole_factor(tmp_path, monkeypatch, suffix, mode,
                                                                            factor):
    ramp = np.linspace(0, 255, 90).astype(np.uint8)
    exif = Image.Exif()
    exif[images.ORIENTATION_TAG] = 6  # to be turned by 90 degrees
    picture = Image.fromarray(np.tile(ramp, (60, 1))).convert(mode)
    picture.save(tmp_path / f"a.{suffix}", exif=exif)
    whole = open_image(tmp_path / f"a.{suffix}")
    monkeypatch.setattr(images, "LARGE", 60 * 90 // factor**2)
    reduced = open_image(tmp_path / f"a.{suffix}")
    assert whole.size == (60, 90) and reduced.size == (60 // factor, 90 // factor) and reduced.mode == "RGB"
    assert np.abs(np.asarray(whole.reduce(factor)).astype(int) - np.asarray(reduced)).max() <= 5
    monkeypatch.setattr(images, "LARGE", 60 * 90)
    assert open_image(tmp_path / f"a.{suffix}") == whole
