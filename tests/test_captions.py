"""utils/captions/captioning.py and caption_folder.py, with a model that names colours: every caption is known."""

import json
import os
from argparse import Namespace

import pytest
from PIL import Image, ImageColor

from utils.captions import captioning
from utils.captions.caption_folder import CaptionFolder
from utils.data.images import read_aligned, read_lines
from utils.system.errors import UserError

COLORS = ("red", "green", "blue", "white", "black", "yellow", "purple")


def name_color(image):
    return next(color for color in COLORS if image.getpixel((0, 0)) == ImageColor.getrgb(color))


class ColorNamer(captioning.Captioner):
    """Captions (name of the colour, the others of its batch): shows which image, and that batches stay the same."""

    name, published, model_type = "Namer", "nobody/namer", "namer"
    prepare = staticmethod(name_color)

    def __init__(self, silent=(), stubborn=(), dies_after=None, dtype="fp32"):
        self.silent, self.stubborn = set(silent) | set(stubborn), set(stubborn)
        self.dies_after, self.dtype, self.batches, self.seeds = dies_after, dtype, None, []

    def open(self, args):
        self.batches = []
        return {"dtype": self.dtype}

    def describe(self, images, seed=None):
        if seed is not None:
            self.seeds.append(seed)
            return [" \n" if image in self.stubborn else f"a {image} wall after all" for image in images]
        if self.dies_after == len(self.batches):
            raise KeyboardInterrupt
        self.batches.append(images)
        return ["" if image in self.silent else f"a {image}\n wall among {'+'.join(images)}" for image in images]


def write_image(folder, name, color):
    Image.new("RGB", (8, 8), color).save(folder / name)


@pytest.fixture
def data(tmp_path):
    """data_dir with one picture of each colour for `call`, the colour in its name."""
    for split in ("train", "test"):
        images = tmp_path / "call" / split / "images"
        images.mkdir(parents=True)
        for i, color in enumerate(COLORS):
            write_image(images, f"{i}_{color}.png", color)
    return tmp_path


def run(data, namer=None, **flags):
    """caption_splits of the training images with a ColorNamer, two at a time; returns it if it was needed."""
    flags = {"gesture": "call", "split": "train", "data_dir": data, "model": "namer", "batch_size": 2, "seed": 0,
             "dtype": "auto", "overwrite": False, **flags}
    namer = namer or ColorNamer()
    captioning.caption_splits(Namespace(**flags), namer)
    return None if namer.batches is None else namer


def lists(data, split="train"):
    folder = data / "call" / split
    return [(folder / f"Namer_{kind}.txt").read_bytes() for kind in ("filenames", "captions")]


# Texts and names


@pytest.mark.parametrize(("text", "clean"), [
    ("a man\nholding\r\n  a phone\t", "a man holding a phone"),
    ("two\x0blines\u2028and\x85three", "two lines and three"),
    ("bell\x07 and\x00 escape\x1b[31m", "bell and escape[31m"),
    ("cut off \N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}", "cut off"),
    ("zero\u200bwidth\ufeff \u202eturned", "zerowidth turned"),
    ("naïve café, 日本", "naïve café, 日本"),
    (" \n\x00\t", ""),
])
def test_a_caption_becomes_one_printable_line(text, clean, tmp_path):
    assert captioning.clean_caption(text) == clean
    if clean:
        (tmp_path / "list.txt").write_text(f"{clean}\n", encoding="utf-8")
        assert read_lines(tmp_path / "list.txt") == [clean]


def test_names_that_a_list_cannot_hold_are_left_out(data, capsys):
    images = data / "call" / "train" / "images"
    breaks = "a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029.png"  # in the eyes of str.splitlines alone
    for name in (breaks, "two\nlines.png", "\ufeffmark.png", os.fsdecode(b"latin\xe9.png"), " spaces  in it .png",
                 "-dash.png"):
        write_image(images, name, "red")
    run(data)
    names, _ = read_aligned(*(data / "call" / "train" / f"Namer_{kind}.txt" for kind in ("filenames", "captions")))
    assert names == sorted([breaks, " spaces  in it .png", "-dash.png",
                            *(f"{i}_{c}.png" for i, c in enumerate(COLORS))])
    warnings = capsys.readouterr().err.splitlines()
    assert sum("cannot stand in a list" in line for line in warnings) == 3
    assert run(data) is None


# Alignment


def test_every_caption_stands_beside_its_image_whatever_order_the_file_system_gives(data, monkeypatch):
    run(data)
    first = lists(data)
    names, texts = (part.decode().splitlines() for part in first)
    assert names == [f"{i}_{color}.png" for i, color in enumerate(COLORS)]
    assert [text.split(" wall")[0] for text in texts] == [f"a {color}" for color in COLORS]

    scandir = os.scandir

    class Reversed(list):
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

    monkeypatch.setattr(os, "scandir", lambda folder: Reversed(reversed(list(scandir(folder)))))
    run(data, overwrite=True)
    assert lists(data) == first


def test_corrupt_image_is_named_left_out_of_both_lists_and_counted(data, capsys):
    (data / "call" / "train" / "images" / "1_green.png").write_bytes(b"\x89PNG\r\n no more")
    run(data)
    names, texts = (part.decode().splitlines() for part in lists(data))
    assert len(names) == len(texts) == 6 and "1_green.png" not in names
    captured = capsys.readouterr()
    assert "warning: left out: 1_green.png: " in captured.err
    assert captured.out.splitlines()[-1].endswith(
        "train: 6 captions, 1 images left out (1 cannot be read, 0 without a caption)")


def test_when_all_images_are_damaged_later_the_earlier_lists_stay(data):
    run(data)
    before = lists(data)
    for path in (data / "call" / "train" / "images").iterdir():
        path.write_bytes(b"")
    for _ in range(2):
        with pytest.raises(UserError, match="none of its images has a caption"):
            run(data)
        assert lists(data) == before


def test_empty_caption_gets_one_more_chance_with_a_seed_of_the_image_then_is_left_out(data, capsys):
    model = run(data, ColorNamer(silent=["green"], stubborn=["white"]), batch_size=3)
    seeds = model.seeds
    names, texts = (part.decode().splitlines() for part in lists(data))
    assert texts[names.index("1_green.png")] == "a green wall after all"
    assert "3_white.png" not in names and len(names) == len(texts) == 6
    captured = capsys.readouterr()
    assert "left out: 3_white.png: no caption in two attempts" in captured.err
    assert "1 images left out (0 cannot be read, 1 without a caption)" in captured.out

    # The same seeds in other batches, others for another --seed; and no third attempt
    again = run(data, ColorNamer(silent=["green"], stubborn=["white"]), batch_size=1, overwrite=True)
    assert again.seeds == seeds and len(set(seeds)) == 2
    other = run(data, ColorNamer(silent=["green"], stubborn=["white"]), seed=1, overwrite=True)
    assert not set(other.seeds) & set(seeds)
    assert run(data, seed=1) is None


# Resume


@pytest.mark.parametrize("batches", range(4))
def test_an_interrupted_run_goes_on_with_the_same_batches_and_ends_the_same(data, batches):
    expected = run(data)
    undisturbed = lists(data)
    journal = data / "call" / "train" / "Namer_captions.jsonl"
    whole = journal.read_bytes()
    for path in (data / "call" / "train").glob("Namer*"):
        path.unlink()
    with pytest.raises(KeyboardInterrupt):
        run(data, ColorNamer(dies_after=batches))
    assert not list((data / "call" / "train").glob("*.txt"))
    resumed = run(data)
    assert resumed.batches == expected.batches[batches:]
    assert lists(data) == undisturbed and journal.read_bytes() == whole


@pytest.mark.parametrize("batches", [0, 2])
def test_what_is_captioned_anew_takes_the_place_of_the_old_when_all_of_it_is_there(data, batches):
    run(data)
    folder = data / "call" / "train"
    before = {path.name: path.read_bytes() for path in folder.glob("Namer*")}
    with pytest.raises(KeyboardInterrupt):
        run(data, ColorNamer(dies_after=batches), overwrite=True, seed=1)
    assert before.items() <= {path.name: path.read_bytes() for path in folder.glob("Namer*")}.items()
    assert run(data) is None  # the old captions are as good as they were
    assert len(run(data, overwrite=True, seed=1).batches) == 4 - batches  # the new ones go on
    assert {path.name for path in folder.glob("Namer*")} == before.keys()
    assert json.loads((folder / "Namer_captions.jsonl").read_text().splitlines()[0])["settings"]["seed"] == 1
    assert len(run(data, overwrite=True, seed=1).batches) == 4


@pytest.mark.parametrize(("renames", "left"), [(0, 2), (2, 1), (3, 1)])
def test_a_run_that_dies_between_the_two_lists_leaves_no_mismatched_pair(data, monkeypatch, renames, left):
    run(data)
    write_image(data / "call" / "train" / "images", "0_black.png", "black")  # comes first: all lines move
    before, replace, count = lists(data), os.replace, []

    def dying(source, target):
        count.append(target)
        if len(count) > renames:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", dying)
    with pytest.raises(KeyboardInterrupt):
        run(data)
    monkeypatch.undo()
    texts = list((data / "call" / "train").glob("*.txt"))
    assert len(texts) == left and (left < 2 or lists(data) == before)
    assert run(data) is None  # nothing is left for the model
    names, texts = (part.decode().splitlines() for part in lists(data))
    assert names[0] == "0_black.png" and texts[0].startswith("a black wall") and len(names) == len(texts) == 8


def test_a_finished_folder_is_left_alone_even_where_captions_were_edited(data, capsys):
    run(data)
    edited = data / "call" / "train" / "Namer_captions.txt"
    edited.write_text(edited.read_text().replace("a red wall", "a crimson wall"))
    before = lists(data)
    assert run(data) is None and lists(data) == before
    assert "is finished; --overwrite would" in capsys.readouterr().out


def test_new_and_changed_images_are_captioned_and_those_that_went_leave_the_lists(data, capsys):
    run(data)
    folder = data / "call" / "train"
    (folder / "Namer_enriched.txt").write_text("made from the earlier ones\n")
    (folder / "images" / "2_blue.png").unlink()
    write_image(folder / "images", "0_red.png", "black")
    write_image(folder / "images", "9_green.png", "green")
    assert run(data).batches == [["black", "green"]]
    names, texts = (part.decode().splitlines() for part in lists(data))
    assert names == [path.name for path in sorted((folder / "images").iterdir())]
    assert texts[0].startswith("a black wall") and texts[-1].startswith("a green wall") and len(texts) == 7
    assert "Namer_enriched.txt was made from earlier captions" in capsys.readouterr().err


def test_a_changed_image_has_its_new_caption_when_the_run_was_killed_before_the_lists(data, monkeypatch):
    def killed(folder):
        raise KeyboardInterrupt

    run(data)
    write_image(data / "call" / "train" / "images", "0_red.png", "black")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(CaptionFolder, "write_lists", killed)
        run(data)
    run(data)
    assert lists(data)[1].startswith(b"a black wall")


# Refusals


@pytest.mark.parametrize(("flags", "difference"), [
    ({"model": "other"}, "model: namer there, other now"),
    ({"seed": 5}, "seed: 0 there, 5 now"),
    ({"dtype": "bf16"}, "dtype: fp32 there, bf16 now"),
])
def test_other_settings_are_refused_and_leave_everything_as_it_was(data, flags, difference):
    run(data)
    before = {path: path.read_bytes() for path in (data / "call" / "train").glob("Namer*")}
    with pytest.raises(UserError, match=difference):
        run(data, **flags)
    assert before == {path: path.read_bytes() for path in (data / "call" / "train").glob("Namer*")}
    assert run(data, **flags, overwrite=True).batches


def test_another_model_behind_the_same_name_is_refused(data):
    write_image(data / "call" / "train" / "images", "9_red.png", "red")
    with pytest.raises(KeyboardInterrupt):
        run(data, ColorNamer(dies_after=1))
    with pytest.raises(UserError, match="dtype: fp32 there, bf16 now"):
        run(data, ColorNamer(dtype="bf16"))
    with pytest.raises(KeyboardInterrupt):
        run(data, ColorNamer(dies_after=2), overwrite=True)
    assert len(run(data, ColorNamer(dtype="bf16"), overwrite=True).batches) == 4


def test_lists_of_unknown_origin_are_not_written_over(data):
    (data / "call" / "train" / "Namer_captions.txt").write_text("by hand\n")
    with pytest.raises(UserError, match="holds Namer_captions.txt but no Namer_captions.jsonl"):
        run(data)
    assert (data / "call" / "train" / "Namer_captions.txt").read_text() == "by hand\n"


def test_a_damaged_journal_is_named_with_its_line(data):
    run(data)
    journal = data / "call" / "train" / "Namer_captions.jsonl"
    settings, *batches = journal.read_text().splitlines()
    records = [json.dumps({"batch": [{"name": "a.png", "stamp": None, "caption": text}]})
               for text in ("", "\u2028", "a\nb", "a\r", "\0")]
    for line in ("{", "[]", '{"batch": 1}', '{"batch": [{"caption": "a"}]}', *records):
        journal.write_text("\n".join([settings, line, *batches]) + "\n")
        with pytest.raises(UserError, match="Namer_captions.jsonl, line 2: not what a captioner writes"):
            run(data)


def test_a_second_run_on_the_same_captions_is_refused_and_another_captioner_is_not(data):
    class Other(ColorNamer):
        name = "Other"

    class Meanwhile(ColorNamer):
        def describe(self, images, seed=None):
            if not self.batches:
                for overwrite in (False, True):
                    with pytest.raises(UserError, match="train/Namer_captions.jsonl: another run is writing to it"):
                        run(data, overwrite=overwrite)
                run(data, Other())
            return super().describe(images, seed)

    assert len(run(data, Meanwhile()).batches) == 4
    folder = data / "call" / "train"
    assert (folder / "Other_captions.txt").exists() and not list(folder.glob(".*"))


@pytest.mark.parametrize(("args", "problem"), [
    (["--gesture", "cal"], "did you mean call?"),
    (["--gesture", "call", "--data_dir", "{data}/none"], "--data_dir '{data}/none/call/train/images': No such file"),
    (["--gesture", "call", "--split", "valid"], "argument --split: invalid choice"),
    (["--gesture", "call", "--batch_size", "0"], "argument --batch_size: must be a whole number"),
])
def test_wrong_arguments_are_refused(data, args, problem, capsys):
    with pytest.raises(SystemExit) as exit_status:
        captioning.parse_args("", ColorNamer, [arg.format(data=data) for arg in args])
    assert exit_status.value.code == 2
    assert problem.format(data=data) in capsys.readouterr().err
