"""hand_confidence.py: what it counts, and a run as a user runs it."""

import csv
import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import hand_confidence
from tests.conftest import no_reader
from tests.rendered_hands import add_useless_files, render_folder, skeleton_hand
from utils.data.gestures import GESTURES
from utils.hands.landmarker import describe_detector
from utils.metrics.hand_scores import score_image, summarize_folder
from utils.metrics.hand_sheet import describe_image, pick_worst
from utils.system.script import run_main

CALL = GESTURES["call"]


def score_images(images, gesture=None):
    return [score_image(Path(f"{i}.png"), hands, gesture) for i, hands in enumerate(images)]


def summarize(images, gesture=None):
    return summarize_folder(score_images(images, gesture), gesture)


def read_table(lines):
    """{name of a folder: {name of a line: cell}} of a printed table."""
    header, *lines = (re.split(r"\s{2,}", line) for line in lines)
    return {name: {cells[0]: cells[column] for cells in lines} for column, name in enumerate(header) if name}


# Counting


def test_images_without_a_hand_count_zero_only_where_the_name_says_so():
    row = summarize([[skeleton_hand("call", score=0.8)], [skeleton_hand("fist", score=0.6)], [], None])
    counts = {"num_images": 3, "num_skipped": 1, "num_without_hand": 1, "num_hands": 2}
    assert counts.items() <= row.items()
    assert row["detection_rate"] == pytest.approx(2 / 3)
    assert row["hand_conf"] == pytest.approx((0.8 + 0.6) / 2)
    assert row["hand_conf_zero_filled"] == pytest.approx((0.8 + 0.6) / 3)
    assert "gesture_match_rate" not in row


def test_two_hands_are_both_averaged_but_an_image_counts_by_its_best():
    row = summarize([[skeleton_hand("fist", score=0.6), skeleton_hand("fist", score=0.9)]])
    assert row["hand_conf"] == pytest.approx(0.75) and row["hand_conf_zero_filled"] == pytest.approx(0.9)


def test_presence_counts_as_the_score_does():
    sure, unsure = skeleton_hand("fist", score=0.6, presence=0.9), skeleton_hand("fist", score=0.9, presence=0.7)
    row = summarize([[sure, unsure], [unsure], []])
    assert row["hand_presence"] == pytest.approx((0.9 + 0.7 + 0.7) / 3)
    assert row["hand_presence_zero_filled"] == pytest.approx((0.9 + 0.7) / 3)


def test_match_rate_is_a_share_of_the_images_with_a_hand_and_their_best_hands():
    idle, unsure = skeleton_hand("palm", score=0.6), skeleton_hand("call", score=0.5)
    row = summarize([[skeleton_hand("call", score=0.9)], [idle, skeleton_hand("call", score=0.7)], [idle, unsure], []],
                    CALL)
    assert row["gesture_match_rate"] == pytest.approx(2 / 3)


def test_like_and_dislike_have_the_same_fingers_and_are_told_apart_by_their_direction():
    hand = skeleton_hand("like")
    upside_down = dataclasses.replace(hand, world_landmarks=hand.world_landmarks * (-1, -1, 1))
    row = summarize([[hand], [hand], [hand], [upside_down], [], [skeleton_hand("palm")]], GESTURES["like"])
    assert row["gesture_match_rate"] == pytest.approx(4 / 5) and row["direction_match_rate"] == pytest.approx(3 / 4)
    assert "direction_match_rate" not in summarize([[hand]], CALL)


def test_summary_says_which_way_the_thumbs_point_where_the_gesture_has_a_direction():
    upside_down = skeleton_hand("like")
    upside_down = dataclasses.replace(upside_down, world_landmarks=upside_down.world_landmarks * (-1, -1, 1))
    row = {"name": "x", "gesture": "like"} | summarize([[upside_down], [skeleton_hand("palm")]], GESTURES["like"])
    assert hand_confidence.format_summary(row).endswith(
        "50.0% of these hold their fingers as like, 0.0% of those with the thumb in its direction")


def test_scores_that_do_not_vary_have_no_interval():
    row = summarize([[skeleton_hand("call", score=0.9)], []], CALL)
    assert row["hand_conf"] == 0.9 and row["hand_conf_low"] is row["hand_conf_high"] is None
    assert hand_confidence.format_metric(row, "hand_conf") == "0.9000"
    assert row["detection_rate_low"] < 0.5 < row["detection_rate_high"]


def test_best_hand_is_the_surest_whatever_the_gesture():
    scores = {"palm": 0.8, "fist": 0.9, "call": 0.7}
    hands = [skeleton_hand(name, score=score) for name, score in scores.items()]
    assert score_images([hands])[0].best is hands[1]
    with_gesture, = score_images([hands], CALL)
    assert with_gesture.best is hands[1] and with_gesture.score == 0.9 and not with_gesture.shows_gesture


def test_an_image_without_a_hand_does_not_show_the_gesture_in_the_zero_filled_rate():
    row = summarize([[skeleton_hand("call")], [skeleton_hand("palm")], [], [], None], CALL)
    assert (row["gesture_match_rate"], row["gesture_match_rate_zero_filled"]) == (0.5, 0.25)


def test_means_over_nothing_are_missing_not_zero():
    row = summarize([[], []], CALL)
    assert (row["detection_rate"], row["hand_conf_zero_filled"], row["gesture_match_rate_zero_filled"]) == (0, 0, 0)
    assert all(row[name + end] is None for name in ("hand_conf", "gesture_match_rate") for end in ("", "_low", "_high"))
    row = {"name": "a", "gesture": "call", **row}
    assert (row["num_images"], row["num_without_hand"], row["num_hands"]) == (2, 2, 0)
    assert hand_confidence.format_metric(row, "hand_conf") == "-"
    assert hand_confidence.format_metric(row, "detection_rate") == "0.0000 [0.0000, 0.6576]"  # Wilson, 0 of 2
    assert "HAND-CONF -" in hand_confidence.format_summary(row)


# Intervals


def simulated_images(number, hands_per_image=1):
    """`number` images of hands with scores 0.5 … 1, every third without a hand."""
    scores = np.random.default_rng(0).uniform(0.5, 1, number)
    hands = [skeleton_hand("call" if i % 2 else "palm", score=score, presence=1.5 - score)
             for i, score in enumerate(scores)]
    return [[hand] * hands_per_image * (i % 3 > 0) for i, hand in enumerate(hands)]


def test_intervals_hold_the_number_and_are_as_wide_as_theory_has_it():
    row = summarize(simulated_images(300), CALL)
    for name in (name for name in hand_confidence.METRICS if name != "direction_match_rate"):  # call has none
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    width = row["detection_rate_high"] - row["detection_rate_low"]
    assert width == pytest.approx(2 * 1.96 * np.sqrt(2 / 9 / 300), rel=0.15)
    spread = np.std([hands[0].score for hands in simulated_images(300) if hands])
    assert row["hand_conf_high"] - row["hand_conf_low"] == pytest.approx(2 * 1.96 * spread / np.sqrt(200), rel=0.15)


def test_images_are_resampled_not_hands():
    one, four = (summarize(simulated_images(90, number)) for number in (1, 4))
    assert four["num_hands"] == 4 * one["num_hands"]
    for end in ("", "_low", "_high"):  # a second hand that says the same as the first makes nothing surer
        assert four[f"hand_conf{end}"] == pytest.approx(one[f"hand_conf{end}"], abs=1e-12)


def test_intervals_depend_on_the_seed_alone():
    scored = score_images(simulated_images(60))
    first, again, other = (summarize_folder(scored, None, seed) for seed in (0, 0, 1))
    assert first == again and first["hand_conf"] == other["hand_conf"] and first != other


# The grid


def test_grid_shows_misses_and_low_scores_first_and_not_only_images_without_a_hand():
    images = [[]] * 20 + [[skeleton_hand("call", score=0.5 + i / 100)] for i in range(20)]
    images[30] = [skeleton_hand("palm", score=0.99)]
    scored = score_images(images, CALL)
    worst = pick_worst(scored)
    assert [image.path.stem for image in worst] == [*map(str, range(8)), "30", *map(str, range(20, 27))]
    assert len(pick_worst(scored[:20])) == len(pick_worst(scored[:23])) == 16
    assert [image.path.stem for image in pick_worst(scored[18:23])] == ["18", "19", "20", "21", "22"]


def test_captions_say_what_was_found():
    hands = [skeleton_hand("call", score=0.75)]
    caption = describe_image(score_image(Path("x" * 80 + ".png"), hands, CALL), "tuned", CALL)
    assert caption.endswith("xx.png 0.750, shows call, out: thumb little") and len(caption) < 100
    palm = GESTURES["palm"]
    assert "not palm, out" in describe_image(score_image(Path("a.png"), hands, palm), "tuned", palm)
    assert describe_image(score_image(Path("a.png"), [], CALL), "base", CALL) == "base a.png no hand"


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory, run_script):
    """Two folders: five `call`, and three `palm` with an image without a hand and a damaged one."""
    root = tmp_path_factory.mktemp("confidence")
    render_folder(root / "call", "call", 5)
    render_folder(root / "palm", "palm", 3)
    add_useless_files(root / "palm")
    result = run_script(["hand_confidence.py", "--image_folder", root / "call", root / "palm",
                         "--names", "good", "bad", "--gesture", "call", "--output", root / "results.jsonl",
                         "--per_image", root / "scores.csv", "--grid", root / "worst.png",
                         "--cache_dir", root / "cache"])
    assert result.returncode == 0, result.stderr
    return root, result


def test_table_summary_and_rows_say_the_same(run):
    root, result = run
    rows = [json.loads(line) for line in (root / "results.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == ["good", "bad"]
    assert [row["image_folder"] for row in rows] == [str(root / "call"), str(root / "palm")]
    assert [(row["num_images"], row["num_skipped"]) for row in rows] == [(5, 0), (4, 1)]
    assert rows[0]["gesture_match_rate"] >= 0.6 and rows[1]["gesture_match_rate"] == 0
    assert rows[0]["detection_rate"] >= 0.8 and 0.5 <= rows[1]["detection_rate"] <= 0.75
    assert rows[1]["hand_conf_zero_filled"] <= 0.75 * rows[1]["hand_conf"] + 1e-6
    settings = {"gesture": "call", "seed": 0, "max_num_hands": 2, "min_confidence": 0.5,
                "detector": describe_detector()}
    assert all(settings.items() <= row.items() for row in rows)

    *lines, summary = result.stdout.splitlines()
    table = read_table(lines)
    for row in rows:
        for key in ("num_images", "num_skipped", "num_without_hand", "num_hands"):
            assert table[row["name"]][key] == str(row[key])
        for key in ("detection_rate", "hand_conf", "hand_conf_zero_filled", "gesture_match_rate",
                    "gesture_match_rate_zero_filled"):
            numbers = [row[key + end] for end in ("", "_low", "_high")]
            assert table[row["name"]][key] == "{:.4f} [{:.4f}, {:.4f}]".format(*numbers)
            assert numbers[1] <= numbers[0] <= numbers[2]
    assert summary.count("HAND-CONF") == 2 and f"{rows[0]['hand_conf']:.4f}" in summary
    assert summary.endswith(", 1 skipped")


def test_progress_and_warnings_go_to_standard_error_and_nothing_else_does(run):
    root, result = run
    lines = [line.strip() for line in result.stderr.replace("\r", "\n").splitlines()]
    others = [line for line in lines if line and not line.startswith("detecting hands")]
    assert len(others) == 1 and others[0].startswith(f"warning: skipped: {root / 'palm' / 'zdamaged.jpg'}: ")


def test_every_image_has_a_line_of_scores(run):
    root, _ = run
    with open(root / "scores.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["file"] for line in lines] == [*(f"call_{i}.png" for i in range(5)), *(
        f"palm_{i}.png" for i in range(3)), "wall.png", "zdamaged.jpg"]
    by_file = {line["file"]: line for line in lines}
    assert by_file["zdamaged.jpg"]["num_hands"] == "unreadable" and by_file["zdamaged.jpg"]["score"] == ""
    assert (by_file["wall.png"]["num_hands"], by_file["wall.png"]["score"]) == ("0", "0.0000")
    shown = [line for line in lines if line["shows_gesture"] == "1"]
    assert shown and all(line["fingers_out"] == "thumb little" for line in shown)
    assert {"thumb index middle ring little"} <= {line["fingers_out"] for line in lines}
    assert all(float(line["x0"]) < float(line["x1"]) for line in shown)


def test_grid_shows_what_was_detected(run):
    root, _ = run
    with Image.open(root / "worst.png") as grid:
        assert grid.width > 4 * 192 and grid.height > 3 * 192  # five and four readable images, four side by side
        assert (255, 0, 0) in {color for _, color in grid.getcolors(1 << 24)}


def test_kept_hands_give_the_same_output_and_the_same_warnings(run, run_script):
    root, result = run
    again = run_script(["hand_confidence.py", "--image_folder", root / "call", root / "palm",
                        "--names", "good", "bad", "--gesture", "call", "--cache_dir", root / "cache"])
    assert again.stdout == result.stdout
    errors = again.stderr.splitlines()
    assert [line.split()[0] for line in errors] == ["read", "read", "warning:"]
    assert errors[2] == result.stderr.splitlines()[-1]


def test_results_are_saved_when_the_reader_of_the_table_has_gone(run, tmp_path):
    root, _ = run
    rows, scores, grid = tmp_path / "rows.jsonl", tmp_path / "scores.csv", tmp_path / "worst.png"
    args = ["--image_folder", root / "call", "--cache_dir", root / "cache", "--output", rows, "--per_image", scores,
            "--grid", grid]
    with no_reader(), pytest.raises(SystemExit) as exit_status:
        run_main(hand_confidence.main, hand_confidence.parse_args([str(arg) for arg in args]))
    assert exit_status.value.code == 141
    assert json.loads(rows.read_text())["num_images"] == 5 and scores.is_file() and grid.is_file()


def test_the_protocol_sets_what_no_flag_sets(tmp_path):
    def detection(*flags):
        args = hand_confidence.parse_args(["--image_folder", str(tmp_path), *flags])
        return args.max_num_hands, args.min_confidence

    assert detection() == detection("--protocol", "clean") == (2, 0.5)
    assert detection("--protocol", "hand1000") == (2, 0)
    assert detection("--protocol", "hand1000", "--min_confidence", "0.3") == (2, 0.3)
    assert detection("--max_num_hands", "1", "--protocol", "hand1000") == (1, 0)


def test_folder_of_unreadable_images_fails_in_one_line(tmp_path, run_script):
    (tmp_path / "a.png").write_text("no image")
    rows = tmp_path / "rows.jsonl"
    result = run_script(["hand_confidence.py", "--image_folder", tmp_path, "--output", rows])
    assert result.returncode == 1 and result.stdout == "" and "Traceback" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith(f"error: {tmp_path}: none of its 1 images can be read")
    assert not rows.exists()


@pytest.mark.parametrize(("args", "problem"), [
    (["--image_folder", "{folder}/missing"], "--image_folder '{folder}/missing': No such file"),
    (["--image_folder", "{folder}", "--names", "a", "b"], "--names: 2 for 1 folders"),
    (["--image_folder", "{folder}", "{folder}", "--names", "a", "a"], "--names: a label stands twice"),
    (["--image_folder", "{folder}", "--gesture", "cal"], "did you mean call?"),
    (["--image_folder", "{folder}", "--gesture", "grip"], "--gesture grip: how its fingers are held is not"),
    (["--image_folder", "{folder}", "--min_confidence", "nan"], "--min_confidence: must be a number from 0"),
    (["--image_folder", "{folder}", "--grid", "worst.txt"], "--grid worst.txt: give a name that ends in"),
    (["--image_folder", "{folder}", "--output", "{folder}"], "--output {folder}: is a folder"),
    (["--image_folder", "{folder}", "--output", "/dev/null"], "--output /dev/null: is no regular file"),
    (["--image_folder", "{folder}", "--grid", "{folder}/a.png"], "lies among the images"),
    (["--image_folder", "tests", "{folder}", "--per_image", "{folder}/a.png"], "lies among the images"),
    (["--image_folder", "{folder}", "--cache_dir", "Makefile"], "--cache_dir 'Makefile': is not a folder"),
    (["--image_folder", "{folder}", "--protocol", "published"], "--protocol: invalid choice"),
])
def test_wrong_arguments_are_refused(args, problem, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_status:
        hand_confidence.parse_args([arg.format(folder=tmp_path) for arg in args])
    assert exit_status.value.code == 2
    assert problem.format(folder=tmp_path) in capsys.readouterr().err
