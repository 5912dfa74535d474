"""hand_confidence.py: what it counts, and a run as a user runs it."""

import csv
import json
from pathlib import Path

import pytest
from PIL import Image

import hand_confidence
from tests.rendered_hands import add_useless_files, render_folder, skeleton_hand
from utils.gestures import GESTURES

CALL = GESTURES["call"]


def summarize(images, gesture=None):
    scored = [hand_confidence.score_image(Path(f"{i}.png"), hands, gesture) for i, hands in enumerate(images)]
    return hand_confidence.summarize_folder(scored, gesture)


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


def test_match_rate_is_a_share_of_the_images_with_a_hand():
    idle = skeleton_hand("palm", score=0.99)
    row = summarize([[skeleton_hand("call")], [idle, skeleton_hand("call", score=0.7)], [idle], []], CALL)
    assert row["gesture_match_rate"] == pytest.approx(2 / 3)


def test_best_hand_is_the_gesturing_one_then_the_surest():
    scores = {"palm": 0.8, "fist": 0.9, "call": 0.7}
    hands = [skeleton_hand(name, score=score) for name, score in scores.items()]
    assert hand_confidence.score_image(Path("a.png"), hands, None)["best"] is hands[1]
    assert hand_confidence.score_image(Path("a.png"), hands, CALL)["best"] is hands[2]
    assert hand_confidence.score_image(Path("a.png"), hands, CALL)["score"] == 0.9


def test_means_over_nothing_are_missing_not_zero():
    row = summarize([[], []], CALL)
    assert (row["detection_rate"], row["hand_conf_zero_filled"]) == (0, 0)
    assert row["hand_conf"] is None and row["gesture_match_rate"] is None
    row = {"name": "a", "gesture": "call", **row}
    header, line = hand_confidence.format_table([row])
    assert line.split() == ["a", "2", "0", "0.0000", "-", "0.0000", "-"] and len(header) == len(line)
    assert "HAND-CONF -" in hand_confidence.format_summary([row])


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
                         "--per_image", root / "scores.csv", "--grid", root / "worst.png"])
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
    settings = {"gesture": "call", "seed": 0, "max_num_hands": 2, "min_confidence": 0.5}
    assert all(settings.items() <= row.items() for row in rows)

    header, *lines, summary = result.stdout.splitlines()
    for line, row in zip(lines, rows, strict=True):
        cells = dict(zip(header.split(), line.split(), strict=True))
        for key in ("detection_rate", "hand_conf", "hand_conf_zero_filled", "gesture_match_rate"):
            assert cells[key] == f"{row[key]:.4f}"
    assert summary.count("HAND-CONF") == 2 and f"{rows[0]['hand_conf']:.4f}" in summary


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
    assert by_file["zdamaged.jpg"]["num_hands"] == "unreadable" and by_file["zdamaged.jpg"]["score"] is None
    assert (by_file["wall.png"]["num_hands"], by_file["wall.png"]["score"]) == ("0", "0.0000")
    shown = [line for line in lines if line["shows_gesture"] == "1"]
    assert shown and all(line["fingers_out"] == "thumb little" for line in shown)
    assert {"thumb index middle ring little"} <= {line["fingers_out"] for line in lines}
    assert all(float(line["x0"]) < float(line["x1"]) for line in shown)


def test_grid_shows_what_was_detected(run):
    root, _ = run
    with Image.open(root / "worst.png") as grid:
        assert grid.width > 8 * 190  # nine readable images, eight side by side
        assert (255, 0, 0) in {color for _, color in grid.getcolors(1 << 24)}


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
    (["--image_folder", "{folder}", "--gesture", "cal"], "did you mean call?"),
    (["--image_folder", "{folder}", "--gesture", "grip"], "--gesture grip: how its fingers are held is not"),
    (["--image_folder", "{folder}", "--min_confidence", "nan"], "--min_confidence: must be a number from 0"),
    (["--image_folder", "{folder}", "--grid", "worst.txt"], "--grid worst.txt: give a name that ends in"),
    (["--image_folder", "{folder}", "--output", "{folder}"], "--output {folder}: is a folder"),
])
def test_wrong_arguments_are_refused(args, problem, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_status:
        hand_confidence.parse_args([arg.format(folder=tmp_path) for arg in args])
    assert exit_status.value.code == 2
    assert problem.format(folder=tmp_path) in capsys.readouterr().err
