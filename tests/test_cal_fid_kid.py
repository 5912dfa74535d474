"""cal_fid.py and cal_kid.py as a user runs them and from Python, and what utils/metrics/evaluation.py counts."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

import cal_fid
import cal_kid
from tests.conftest import no_reader
from tests.rendered_hands import add_useless_files, render_folder
from utils.metrics import evaluation
from utils.metrics.comparison_flags import ReadingSettings
from utils.metrics.comparison_report import format_number
from utils.metrics.distance_metrics import FrechetDistance
from utils.metrics.distances import frechet_distance, kernel_distance
from utils.metrics.evaluation import measure_floor, open_folder
from utils.metrics.inception import load_inception
from utils.system.errors import UserError
from utils.system.files import read_rows
from utils.system.script import run_main


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """call/ (8 hands), more_call/ (8 others), peace/ (8 hands, a wall, a damaged file), walls/ (no hand)."""
    root = tmp_path_factory.mktemp("folders")
    render_folder(root / "call", "call", 16)
    (root / "more_call").mkdir()
    for index in range(8, 16):
        (root / "call" / f"call_{index}.png").rename(root / "more_call" / f"call_{index}.png")
    render_folder(root / "peace", "peace", 8)
    add_useless_files(root / "peace")
    (root / "walls").mkdir()
    for index in range(3):
        Image.new("RGB", (64, 64), (60 * index,) * 3).save(root / "walls" / f"{index}.png")
    return root


def run_here(script, args):
    """Row by name of a run in this process, which starts faster than a script."""
    script.main(script.parse_args([str(arg) for arg in args]))


# Runs


def test_fid_of_landmarks_tells_gestures_apart_and_counts_everything(folders, tmp_path, run_script):
    output = tmp_path / "results.jsonl"
    result = run_script(["cal_fid.py", "--real_images", folders / "call", "--fake_images", folders / "more_call",
                         folders / "peace", "--names", "call", "peace", "--features", "landmarks", "--floor",
                         "--output", output])
    assert result.returncode == 0, result.stderr
    call, peace = read_rows(output)
    assert (call["name"], peace["name"]) == ("call", "peace")
    assert 0 < 5 * call["fid_h"] < peace["fid_h"]
    counts = {"num_real": 8, "num_fake": 9, "num_skipped": 1, "num_skipped_fake": 1, "features": "landmarks", "seed": 0}
    assert counts.items() <= peace.items()
    assert peace["fid_h_num_fake"] == round(9 * peace["detection_rate"]) <= 8
    assert peace["fid_h_floor_n"] == peace["fid_h_num_real"] // 2 and peace["fid_h_floor_std"] > 0
    assert peace["fid_h_floor"] < peace["fid_h_same_n"]
    assert "fid" not in peace
    lines = result.stdout.splitlines()
    assert lines[-1].startswith("call: FID-H ") and "; peace: FID-H " in lines[-1]
    assert all("landmarks" in line for line in lines)
    assert "zdamaged.jpg" in result.stderr and "Traceback" not in result.stderr


def test_kid_has_an_interval_and_synthetic_features_see_the_gesture(folders, tmp_path, capsys):
    args = ["--real_images", folders / "call", "--fake_images", folders / "more_call", folders / "peace", "--features",
            "synthetic", "--names", "call", "peace", "--output", tmp_path / "kid.jsonl", "--cache_dir", tmp_path / "c"]
    run_here(cal_kid, args)
    first = capsys.readouterr().out
    call, peace = read_rows(tmp_path / "kid.jsonl")
    for key in ("kid", "kid_h"):
        assert peace[f"{key}_low"] <= peace[key] <= peace[f"{key}_high"]
        assert peace[key] > call[key]
    assert call["feature_settings"] and call["kid_subset_size"] == 4
    run_here(cal_kid, args)
    again = capsys.readouterr()
    assert again.out == first and "read from cache" in again.err
    assert read_rows(tmp_path / "kid.jsonl")[2:] == [call, peace]


def test_every_line_of_random_inception_says_that_it_is_not_comparable(folders, capsys):
    run_here(cal_fid, ["--real_images", folders / "call", "--fake_images", folders / "peace", "--inception_weights",
                       "random", "--num_images", 3, "--floor"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) >= 5 and all("random Inception, not comparable" in line for line in lines)


def test_published_protocol_is_the_biased_estimate(folders, tmp_path):
    args = ["--real_images", folders / "call", "--fake_images", folders / "more_call", "--inception_weights", "random",
            "--region", "full", "--num_images", 4, "--output", tmp_path / "kid.jsonl"]
    run_here(cal_kid, [*args, "--protocol", "hand1000"])
    run_here(cal_kid, args)
    published, ours = read_rows(tmp_path / "kid.jsonl")
    assert [row["feature_settings"]["variant"] for row in (published, ours)] == ["imagenet", "fid"]
    assert published["kid"] > max(0, ours["kid"])  # the diagonals of the Gram matrices count in the biased one
    assert published["kid_subset_size"] == 4 and "kid_low" not in published
    assert (published["protocol"], ours["protocol"]) == ("hand1000", "clean")


def test_published_protocol_refuses_the_other_weights(folders, tmp_path):
    network = load_inception("random")
    torch.save(network.state_dict(), tmp_path / "fid.pth")
    with pytest.raises(UserError, match="ImageNet"):
        run_here(cal_fid, ["--real_images", folders / "call", "--fake_images", folders / "peace", "--protocol",
                           "hand1000", "--inception_weights", tmp_path / "fid.pth"])


@pytest.mark.parametrize("script", [cal_fid, cal_kid], ids=["fid", "kid"])
def test_the_row_is_saved_when_the_reader_of_the_numbers_has_gone(script, folders, tmp_path):
    args = ["--real_images", folders / "call", "--fake_images", folders / "more_call", "--features", "landmarks",
            "--output", tmp_path / "rows.jsonl"]
    with no_reader(), pytest.raises(SystemExit) as exit_status:
        run_main(script.main, script.parse_args([str(arg) for arg in args]))
    assert exit_status.value.code == 141
    row, = read_rows(tmp_path / "rows.jsonl")
    assert row["num_real"] == row["num_fake"] == 8


@pytest.mark.parametrize(("script", "region"), [(cal_fid, "full"), (cal_kid, "hands")])
def test_from_python_the_numbers_are_those_of_the_scripts(script, region, folders, tmp_path, capsys):
    run_here(script, ["--real_images", folders / "call", "--fake_images", folders / "peace", "--region", region,
                      "--features", "synthetic", "--output", tmp_path / "r.jsonl"])
    printed, (row,) = capsys.readouterr().out, read_rows(tmp_path / "r.jsonl")
    name = script.__name__.removeprefix("cal_")
    key = name if region == "full" else f"{name}_h"
    found = getattr(evaluation, name)(folders / "call", str(folders / "peace"), region=region, features="synthetic")
    assert found == (row[key], row[f"{key}_num_real"], row[f"{key}_num_fake"], row.get(f"{key}_low"),
                     row.get(f"{key}_high"))
    assert format_number(found.value) in printed


@pytest.mark.parametrize("settings", [{"features": "landmarks"}, {"region": "both"}, {"protocol": "hand1000"},
                                      {"features": "none"}])
def test_what_has_no_number_is_refused_from_python(settings, folders):
    with pytest.raises(ValueError, match="landmarks|protocol|give one of"):
        evaluation.fid(folders / "call", folders / "peace", **settings)


def test_whole_images_are_compared_from_python_where_litert_is_missing(folders, monkeypatch):
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    assert evaluation.fid(folders / "call", folders / "more_call", features="synthetic").value > 0
    with pytest.raises(UserError, match="needs ai-edge-litert"):
        evaluation.fid(folders / "call", folders / "more_call", region="hands", features="synthetic")


# What it rests on


def filled(real, real_images, fake, fake_images):
    distance = FrechetDistance()
    distance.update(np.float32(real), True, real_images)
    distance.update(np.float32(fake), False, fake_images)
    return distance


def test_floor_compares_as_many_rows_of_different_images_everywhere():
    rng, seen = np.random.default_rng(0), []
    distance = filled(rng.normal(size=(40, 3)), np.repeat(np.arange(20), 2), rng.normal(3, 1, size=(9, 3)),
                      [0, 1, 1, 2, 2, 3, 4, 5, 5])

    def measure(x, y):
        seen.append((x, y))
        return frechet_distance(x, y)

    floor = measure_floor(distance, 0, measure)
    assert (floor["floor_n"], floor["floor_splits"], len(seen)) == (6, 10, 20)
    (real, _), (fake, _) = distance.gathered()
    place = {row.tobytes(): number // 2 for number, row in enumerate(real.numpy())}  # the image of a row
    for (first, second), (again, chosen) in zip(seen[::2], seen[1::2], strict=True):
        assert [len(part) for part in (first, second, chosen)] == [6, 6, 6] and first is again
        assert len({place[row.tobytes()] for row in (*first, *second)}) == 12
        assert all((row == fake.numpy()).all(1).any() for row in chosen)
    values = [frechet_distance(*pair) for pair in seen[::2]]
    assert floor["floor"] == pytest.approx(np.mean(values)) and floor["floor_std"] == pytest.approx(np.std(values))
    assert floor["same_n"] > floor["floor"] and floor["same_n_std"] > 0
    assert measure_floor(distance, 0, measure) == floor != measure_floor(distance, 1, measure)


def test_floor_of_the_unbiased_distance_is_about_zero():
    rng, images = np.random.default_rng(0), np.arange(200)
    distance = filled(rng.normal(size=(200, 8)), images, rng.normal(0.5, 1, size=(200, 8)), images)
    floor = measure_floor(distance, 0, kernel_distance)
    assert abs(floor["floor"]) < 2 * floor["floor_std"] < floor["same_n"]


@pytest.mark.parametrize("num_real", [1, 3])
def test_floor_of_too_few_images_is_missing(num_real):
    few = np.zeros((num_real, 2)), np.arange(num_real)
    assert measure_floor(filled(*few, *few), 0, frechet_distance) == {}


def test_num_images_draws_the_same_images_for_a_seed(folders):
    def names(seed):
        settings = ReadingSettings(num_images=4, seed=seed)
        return [path.name for path, _ in open_folder(folders / "call", "call", settings).records]

    assert names(0) == names(0) and len(set(names(0))) == 4
    assert len({tuple(names(seed)) for seed in range(6)}) > 1
    assert len(open_folder(folders / "call", "call", ReadingSettings(num_images=100)).records) == 8


def test_unequal_numbers_and_the_same_folder_are_warned_about(folders, capsys):
    run_here(cal_fid, ["--real_images", folders / "call", "--fake_images", folders / "call", folders / "peace",
                       "--features", "synthetic", "--region", "full"])
    output = capsys.readouterr()
    assert "8 real and 9 fake images" in output.err and "is the folder of --real_images" in output.err
    same = output.out.splitlines()[2]
    assert "FID" in same and abs(float(same.split("FID ")[1].split(":")[0])) < 1e-4


# Refusals


def test_a_folder_without_hands_is_refused_by_name(folders, run_script, tmp_path):
    result = run_script(["cal_fid.py", "--real_images", folders / "call", "--fake_images", folders / "walls",
                         "--features", "landmarks", "--output", tmp_path / "r.jsonl"])
    assert (result.returncode, result.stdout) == (1, "")
    reason = f"{folders / 'walls'}: at least two images with a hand are needed, it has 0"
    assert result.stderr.splitlines()[-1].startswith(f"error: {reason}")
    assert not (tmp_path / "r.jsonl").exists()


def test_a_single_readable_image_is_refused(folders, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").touch()
    with pytest.raises(UserError, match="at least two images that can be read are needed, it has 1"):
        run_here(cal_fid, ["--real_images", folders / "call", "--fake_images", tmp_path, "--features", "synthetic",
                           "--region", "full"])


def test_whole_images_alone_have_a_detection_rate_too_and_unreadable_ones_do_not_count(folders, tmp_path, capsys):
    run_here(cal_fid, ["--real_images", folders / "call", "--fake_images", folders / "peace", "--features", "synthetic",
                       "--region", "full", "--output", tmp_path / "r.jsonl"])
    row, = read_rows(tmp_path / "r.jsonl")
    assert (row["num_real"], row["num_fake"], row["num_skipped_fake"]) == (8, 9, 1)
    lines = capsys.readouterr().out.splitlines()
    rate = row["detection_rate"]
    assert 0.5 < rate < 1 and 0.5 < row["detection_rate_real"] <= 1
    assert any(f"9 images, 1 unreadable, hands in {rate:.1%};" in line for line in lines)
    assert "(8 real and 9 fake images)" in lines[-1]


def test_a_row_is_named_by_its_folder_and_holds_what_the_numbers_depend_on(folders, tmp_path, capsys):
    run_here(cal_kid, ["--real_images", folders / "call", "--fake_images", folders / "peace", "--features", "landmarks",
                       "--num_subsets", 7, "--num_images", 8, "--output", tmp_path / "r.jsonl"])
    row, = read_rows(tmp_path / "r.jsonl")
    assert row["name"] == str(folders / "peace")
    assert (row["num_images"], row["num_subsets"], row["num_resamples"]) == (8, 7, 1000)
    assert row["detection"] == {"max_num_hands": 2, "min_confidence": 0.5}
    is_unequal = row["kid_h_num_real"] != row["kid_h_num_fake"]
    assert ("has no bias from that" in capsys.readouterr().err) == is_unequal


def test_two_rows_have_no_interval(folders, tmp_path):
    args = ["--real_images", folders / "call", "--fake_images", folders / "more_call", "--features", "synthetic",
            "--region", "full", "--output", tmp_path / "r.jsonl", "--num_images"]
    run_here(cal_kid, [*args, 2])
    run_here(cal_kid, [*args, 4])
    two, four = read_rows(tmp_path / "r.jsonl")
    assert "kid_low" not in two and four["kid_low"] < four["kid_high"]


def test_a_folder_without_hands_costs_its_hand_number_only(folders, tmp_path, capsys):
    run_here(cal_fid, ["--real_images", folders / "call", "--fake_images", folders / "walls", folders / "more_call",
                       "--names", "walls", "call", "--features", "synthetic", "--output", tmp_path / "r.jsonl"])
    walls, call = read_rows(tmp_path / "r.jsonl")
    assert walls["fid"] > call["fid"] and walls["fid_h"] is None and call["fid_h"] > 0
    output = capsys.readouterr()
    assert "at least two images with a hand are needed, it has 0; no hand number" in output.err
    assert "FID-H - (too few images with a hand); call: FID " in output.out.splitlines()[-1]


def test_published_hands_are_boxes_for_fid_and_single_for_kid(folders, tmp_path):
    """Pictures of two hands side by side: one box around both, and a crop of each."""
    for number in range(4):
        pair = Image.new("RGB", (256, 128))
        for place in range(2):
            with Image.open(folders / "call" / f"call_{2 * number + place}.png") as hand:
                pair.paste(hand.resize((128, 128)), (128 * place, 0))
        (tmp_path / "pairs").mkdir(exist_ok=True)
        pair.save(tmp_path / "pairs" / f"{number}.png")
    args = ["--real_images", tmp_path / "pairs", "--fake_images", folders / "more_call", "--region", "hands",
            "--inception_weights", "random", "--protocol", "hand1000", "--output", tmp_path / "r.jsonl"]
    run_here(cal_fid, args)
    run_here(cal_kid, args)
    fid, kid = read_rows(tmp_path / "r.jsonl")
    assert (fid["fid_h_unit"], kid["kid_h_unit"]) == ("hand boxes", "hands")
    assert fid["fid_h_num_real"] <= 4 < kid["kid_h_num_real"] <= 8
    assert kid["kid_h_subset_size"] == min(kid["kid_h_num_real"], kid["kid_h_num_fake"])
    assert kid["kid_h"] > 0 < fid["fid_h"] and "num_subsets" not in kid


@pytest.mark.parametrize(("args", "message"), [
    (["--features", "landmarks", "--region", "full"], "--region hands"),
    (["--features", "synthetic", "--protocol", "hand1000"], "drop --features synthetic"),
    (["--features", "synthetic", "--inception_weights", "random"], "drop one"),
    (["--inception_weights", "nowhere.pth"], "nowhere.pth"),
    (["--names", "a", "b"], "2 for 1 folders"),
    (["--fake_images", "tests", "utils", "--names", "a", "a"], "stands twice"),
    (["--output", "."], "is a folder"),
    (["--cache_dir", "README.md"], "is not a folder"),
    (["--num_images", "0"], "--num_images"),
    (["--num_images", "1"], "needs two images or more"),
])
@pytest.mark.parametrize("script", [cal_fid, cal_kid])
def test_wrong_flags_are_refused_before_anything_is_read(script, args, message, folders, capsys):
    with pytest.raises(SystemExit) as stopped:
        script.parse_args(["--real_images", str(folders / "call"), "--fake_images", str(folders / "peace"), *args])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and message in error and error.count("\n") == 1


@pytest.mark.parametrize("flag", ["--num_subsets", "--num_resamples"])
def test_the_published_protocol_has_its_own_numbers(flag, folders, capsys):
    with pytest.raises(SystemExit):
        cal_kid.parse_args(["--real_images", str(folders / "call"), "--fake_images", str(folders / "peace"),
                            "--protocol", "hand1000", flag, "7"])
    assert f"{flag}: --protocol hand1000 has no choice there" in capsys.readouterr().err
