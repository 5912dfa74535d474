"""python -m utils.hagrid on a miniature download: who is chosen, what is written, and what is refused."""

import json
import os
import shutil

import pytest
from PIL import Image

from tests.miniature_hagrid import write_hagrid
from utils.data import hagrid
from utils.data.images import list_images, open_image
from utils.system.errors import UserError
from utils.system.file_lock import lock_outputs
from utils.system.script import run_main

SPLITS = ("train", "test")


@pytest.fixture(scope="module")
def download(tmp_path_factory):
    """Read only."""
    return write_hagrid(tmp_path_factory.mktemp("download"), resolution=48)


def flags(download, data_dir, *more, gesture="call", num_train=12, num_test=8):
    flags = ["--hagrid_dir", download.images, "--annotations_dir", download.annotations, "--gesture", gesture,
             "--num_train", num_train, "--num_test", num_test, "--data_dir", data_dir, "--num_workers", 1]
    return [str(flag) for flag in (*flags, *more)]


def select(download, data_dir, *more, **options):
    """Select in this process; returns {split: stems}."""
    hagrid.main(hagrid.parse_args(flags(download, data_dir, *more, **options)))
    return stems(data_dir)


def stems(data_dir, gesture="call"):
    return {split: [path.stem for path in list_images(data_dir / gesture / split / "images")] for split in SPLITS}


def error_line(capfd, *args, **options):
    """What main refuses with: an exit status of 1 and one line."""
    with pytest.raises(SystemExit) as error:
        run_main(lambda _: select(*args, **options), None)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert error.value.code == 1 and len(lines) == 1
    return lines[0]


def list_files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def selected(download, tmp_path_factory, run_script):
    """A selection as a user makes it. Read only."""
    data_dir = tmp_path_factory.mktemp("data")
    result = run_script(["-m", "utils.hagrid", *flags(download, data_dir)])
    assert result.returncode == 0, result.stderr
    return data_dir, result


# What is chosen


def test_both_sets_have_their_number_and_no_person_in_common(selected, download):
    data_dir, result = selected
    chosen = stems(data_dir)
    assert [len(chosen[split]) for split in SPLITS] == [12, 8]
    persons = download.persons("call")
    train, test = ({persons[stem] for stem in chosen[split]} for split in SPLITS)
    assert len(train) > 1 and len(test) > 1 and not train & test


def test_what_cannot_be_chosen_is_counted(selected):
    _, result = selected
    assert "25 images of 11 persons (left out: 1 images without annotations, 1 without a hand labelled call, " in (
        result.stdout)
    assert "1 annotations without an image)" in result.stdout
    assert result.stdout.count(": 12 images\n") == result.stdout.count(": 8 images\n") == 1


def test_a_seed_gives_the_same_files_whatever_the_order_of_the_file_system(selected, download, tmp_path, monkeypatch):
    scandir = os.scandir

    class Reversed(list):
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

    monkeypatch.setattr(os, "scandir", lambda *folder: Reversed(list(scandir(*folder))[::-1]))
    select(download, tmp_path)
    monkeypatch.undo()
    assert list_files(tmp_path) == list_files(selected[0])


def test_another_seed_gives_another_selection(selected, download, tmp_path):
    assert select(download, tmp_path, "--seed", 1)["train"] != stems(selected[0])["train"]


def test_the_first_release_is_read_alike(tmp_path, capfd):
    download = write_hagrid(tmp_path / "v1", num_images=12, resolution=32, version=1)
    chosen = select(download, tmp_path / "data", num_train=5, num_test=5)
    persons = download.persons("call")
    assert not {persons[stem] for stem in chosen["train"]} & {persons[stem] for stem in chosen["test"]}
    annotations = json.loads((tmp_path / "data/call/train/annotations.json").read_text())
    assert set(annotations) == set(chosen["train"])
    assert all(set(record) == {"bboxes", "labels", "user_id"} for record in annotations.values())


def test_damaged_images_are_named_and_others_of_the_set_take_their_place(download, tmp_path, capfd):
    broken = shutil.copytree(download.images, tmp_path / "broken")
    for path in sorted((broken / "call").glob("*-4d0a.jpg"))[::6]:
        path.write_bytes(path.read_bytes()[:300])
    download = type(download)(broken, download.annotations, download.records)
    chosen = select(download, tmp_path / "data", num_train=10, num_test=8)
    assert [len(chosen[split]) for split in SPLITS] == [10, 8]
    warned = capfd.readouterr().err
    for split in SPLITS:
        for path in list_images(tmp_path / "data" / "call" / split / "images"):
            assert path.name not in warned and open_image(path).size
    persons = download.persons("call")
    assert not {persons[stem] for stem in chosen["train"]} & {persons[stem] for stem in chosen["test"]}
    assert warned.count("warning: skipped: ") >= 1


def test_when_damage_leaves_a_set_short_the_persons_are_divided_anew(download, tmp_path, capfd):
    """All 24 good images are needed, the damaged one is among the 25 candidates: the first division must fail."""
    chosen = select(download, tmp_path, num_train=12, num_test=12)
    assert sorted(chosen["train"] + chosen["test"]) == sorted(download.records["call"])
    assert capfd.readouterr().err.count("call-damaged.jpg") == 1


@pytest.mark.parametrize(("numbers", "found"), [
    ((20, 20), "there are 25 images of 11 persons, at most 5 of one; lower"),
    ((24, 1), "there are 24 images of 10 persons, at most 5 of one, besides 1 that cannot be read; lower"),
])
def test_too_few_images_or_persons_cost_one_line_that_says_what_is_there(numbers, found, download, tmp_path, capfd):
    message = error_line(capfd, download, tmp_path, num_train=numbers[0], num_test=numbers[1])
    assert found in message and f"{numbers[0]} + {numbers[1]} images" in message
    assert not list_files(tmp_path) and not list(tmp_path.glob("call/*"))


def test_a_plain_folder_of_images_is_split_at_random_with_a_note(download, tmp_path, capfd):
    plain = tmp_path / "photos"
    shutil.copytree(download.images / "call", plain)
    shutil.copy(plain / "call-idle.jpg", plain / "call-idle.png")  # one image for the data set, whatever its suffix
    args = ["--hagrid_dir", plain, "--gesture", "call", "--num_train", "13", "--num_test", "13", "--num_workers", "1",
            "--data_dir", tmp_path / "data"]
    hagrid.main(hagrid.parse_args(list(map(str, args))))
    chosen = stems(tmp_path / "data")
    assert len(set(chosen["train"]) | set(chosen["test"])) == 26
    assert "the same persons may be in both sets" in capfd.readouterr().err
    assert not list((tmp_path / "data").rglob("annotations.json"))


# What is written


def test_annotations_tell_of_each_image_with_the_gesturing_hand_first(selected, download):
    data_dir, _ = selected
    num_pairs = 0
    for split in SPLITS:
        annotations = json.loads((data_dir / "call" / split / "annotations.json").read_text())
        assert sorted(annotations) == stems(data_dir)[split]
        for stem, record in annotations.items():
            truth = download.records["call"][stem]
            order = [truth["labels"].index(label) for label in record["labels"]]
            assert record["labels"][0] == "call" and sorted(order) == list(range(len(truth["labels"])))
            assert record == {"bboxes": [truth["bboxes"][i] for i in order], "labels": record["labels"],
                              "hand_landmarks": [truth["hand_landmarks"][i] or None for i in order],
                              "user_id": truth["user_id"]}
            num_pairs += len(order) == 2
    assert num_pairs >= 3


def test_copies_are_the_files_themselves(selected, download):
    for path in list_images(selected[0] / "call/train/images"):
        assert not path.is_symlink() and path.read_bytes() == (download.images / "call" / path.name).read_bytes()


def test_links_lead_to_the_download(selected, download, tmp_path):
    assert select(download, tmp_path, "--link") == stems(selected[0])
    for path in list_images(tmp_path / "call/test/images"):
        assert path.is_symlink() and path.resolve() == (download.images / "call" / path.name).resolve()


def test_an_image_too_long_for_a_jpeg_is_named(tmp_path):
    Image.new("RGB", (70_000, 20)).save(tmp_path / "long.png")
    with pytest.raises(UserError, match="long.png: cannot be saved as JPEG"):
        hagrid.take_image(open_image(tmp_path / "long.png"), "long.png", tmp_path, tmp_path / "taken", 64, link=False)
    assert not list(tmp_path.glob("taken/*"))


def test_the_number_of_processes_changes_nothing(download, tmp_path, monkeypatch):
    monkeypatch.setattr(hagrid, "IMAGES_PER_WORKER", 4)
    chosen = select(download, tmp_path / "two", "--num_workers", 2, "--resolution", 24)
    assert chosen == select(download, tmp_path / "one", "--resolution", 24)
    assert list_files(tmp_path / "one") == list_files(tmp_path / "two")


def test_resolution_makes_upright_jpegs_with_that_short_side_and_enlarges_none(tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    source.mkdir(), out.mkdir()
    fine = Image.radial_gradient("L").resize((400, 200))
    exif = Image.Exif()
    exif[0x0112] = 6
    fine.save(source / "rotated.jpg", exif=exif)
    fine.convert("RGBA").save(source / "clear.png")
    Image.new("RGB", (30, 20)).save(source / "small.jpg")
    sizes = {}
    for name in ("rotated.jpg", "clear.png", "small.jpg"):
        hagrid.take_image(open_image(source / name), name, source, out, 50, False)
        image = Image.open(out / f"{name[:-4]}.jpg")
        sizes[name] = image.size
        assert image.mode == "RGB" and image.format == "JPEG" and not image.getexif()
    assert sizes == {"rotated.jpg": (50, 100), "clear.png": (100, 50), "small.jpg": (30, 20)}


def test_shrinking_averages_instead_of_dropping_pixels():
    stripes = Image.new("RGB", (200, 100))
    stripes.paste("white", (0, 0, 1, 100))
    for x in range(2, 200, 2):
        stripes.paste(stripes.crop((0, 0, 1, 100)), (x, 0))
    low, high = hagrid.shrink(stripes, 25).crop((5, 5, 40, 20)).convert("L").getextrema()
    assert 120 < low <= high < 136


# Runs


def test_the_same_command_again_changes_nothing_and_another_one_is_refused(download, tmp_path, capfd):
    select(download, tmp_path)
    before = list_files(tmp_path)
    capfd.readouterr()
    select(download, tmp_path)
    assert "already selected with these settings" in capfd.readouterr().out
    assert "seed: 0 there, 3 now" in error_line(capfd, download, tmp_path, "--seed", 3)
    assert "num_test: 8 there, 0 now" in error_line(capfd, download, tmp_path, num_test=0)
    assert list_files(tmp_path) == before
    select(download, tmp_path, "--seed", 3, "--overwrite")
    assert list_files(tmp_path) != before


def test_a_set_that_lost_its_images_is_not_called_finished(download, tmp_path, capfd):
    select(download, tmp_path)
    list_images(tmp_path / "call/train/images")[0].unlink()
    message = error_line(capfd, download, tmp_path)
    assert "were selected" in message and "--overwrite" in message


def test_a_set_without_its_counterpart_or_made_otherwise_is_left_alone(download, tmp_path, capfd):
    select(download, tmp_path)
    shutil.rmtree(tmp_path / "call/test")
    (tmp_path / "call/train/BLIP2_captions.txt").write_text("two hours of work\n")
    message = error_line(capfd, download, tmp_path)
    assert "train is there but" in message and "--overwrite" in message
    (tmp_path / "call/train/selection.json").unlink()
    assert "was not selected from HaGRID; use --overwrite" in error_line(capfd, download, tmp_path)
    assert (tmp_path / "call/train/BLIP2_captions.txt").exists()


def test_one_set_alone_can_be_selected(download, tmp_path):
    hagrid.main(hagrid.parse_args(flags(download, tmp_path, num_test=0)))
    assert len(list_images(tmp_path / "call/train/images")) == 12 and not (tmp_path / "call/test").exists()


def test_a_failure_leaves_nothing_half_done(download, tmp_path, monkeypatch):
    def fail(path, obj):
        raise OSError(28, "No space left on device", str(path))

    (tmp_path / "call/.selection.partial/train").mkdir(parents=True)  # of a run that was killed
    monkeypatch.setattr(hagrid.files, "write_json", fail)
    with pytest.raises(OSError):
        select(download, tmp_path)
    assert not (tmp_path / "call").exists()


def test_a_second_run_on_the_same_gesture_is_refused_and_changes_nothing(download, tmp_path, capfd):
    select(download, tmp_path)
    before = list_files(tmp_path)
    with lock_outputs(tmp_path / "call"):
        assert "call: another run is writing to it" in error_line(capfd, download, tmp_path, "--seed", 3, "--overwrite")
    assert list_files(tmp_path) == before


def test_all_gestures_of_the_download_are_done_and_failures_do_not_stop_the_others(tmp_path, run_script):
    download = write_hagrid(tmp_path / "two", ("call", "palm"), num_images=8, resolution=32)
    (download.annotations / "train/call.json").write_text('{"a": 1}')
    args = flags(download, tmp_path / "data", num_train=3, num_test=3)
    place = args.index("--gesture")
    result = run_script(["-m", "utils.hagrid", *args[:place], "--all_gestures", *args[place + 2:]])
    assert result.returncode == 1
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert "call.json, entry 'a': a JSON object is expected" in errors[0]
    assert "1 of 2 gestures were not selected: call" in errors[1]
    assert "note: not in" in result.stderr and "Traceback" not in result.stderr
    assert len(stems(tmp_path / "data", "palm")["test"]) == 3 and not (tmp_path / "data/call").exists()


@pytest.mark.parametrize(("change", "problem"), [
    ({"gesture": "phone"}, "no gesture 'phone'"),
    ({"num_train": 0, "num_test": 0}, "nothing to select"),
    ({"more": ["--link", "--resolution", "64"]}, "choose one"),
    ({"more": ["--all_gestures"]}, "not allowed with"),
    ({"more": ["--hagrid_dir", "nowhere"]}, "No such file or directory; give the folder"),
    ({"more": ["--annotations_dir", "nowhere"]}, "give the folder of HaGRID's JSON files"),
])
def test_wrong_arguments_are_usage_errors(change, problem, download, tmp_path, capsys):
    more = change.pop("more", [])
    with pytest.raises(SystemExit) as error:
        hagrid.parse_args(flags(download, tmp_path, *more, **change))
    assert error.value.code == 2 and problem in capsys.readouterr().err


def test_a_gesture_that_is_not_in_the_download_is_named_with_what_is_there(download, tmp_path, capfd):
    assert "no folder 'like' in it; there are images of: call" in error_line(capfd, download, tmp_path, gesture="like")
    inside = type(download)(download.images / "call", download.annotations, {})
    assert "there are images of: call" in error_line(capfd, inside, tmp_path, gesture="like")
    (tmp_path / "empty").mkdir()
    empty = type(download)(tmp_path / "empty", download.annotations, {})
    assert "no images in this folder" in error_line(capfd, empty, tmp_path)


def test_a_selection_does_not_replace_the_images_it_is_made_from(selected, tmp_path, capfd):
    data_dir = shutil.copytree(selected[0], tmp_path / "data")
    before = list_files(data_dir)
    args = hagrid.parse_args(["--hagrid_dir", str(data_dir / "call/train/images"), "--gesture", "call", "--num_train",
                              "2", "--num_test", "2", "--data_dir", str(data_dir), "--overwrite"])
    with pytest.raises(UserError, match="where the selection is to go; give another --data_dir"):
        hagrid.main(args)
    assert list_files(data_dir) == before
