"""The commands of the README, from a HaGRID download to a table of numbers, run in order on a rendered miniature.

For another gesture than the README's, so that --gesture and the folders are seen to be all that changes with it.
"""

import json
import os
import re
import shlex
import shutil
from pathlib import Path

import pytest

from tests import scripts
from tests.miniature_hagrid import write_hagrid
from tests.tiny_captioners import build_tiny_clip, build_tiny_vit_gpt2
from utils.data.gestures import GESTURES
from utils.hands.model_files import find_models
from utils.system.files import read_json, read_rows

ROOT = Path(__file__).resolve().parent.parent
HEADING = "## From HaGRID to numbers"
NUM_TRAIN, NUM_TEST = 8, 10
GESTURE = "peace"  # where the README has call


def readme_commands():
    """The commands of the section's first block, continuation lines joined, in order."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").split(HEADING)[1]
    block = re.search(r"```\n(.*?)```", section, re.DOTALL)[1].replace("\\\n", " ")
    return [shlex.split(line) for line in block.splitlines()]


def small_flags(models):
    """What is added to the command of each script: the miniature's size, model folders, few steps, features."""
    base = ROOT / "utils" / "synthetic" / "tiny-stable-diffusion"
    return {
        "utils.hagrid": ["--num_train", NUM_TRAIN, "--num_test", NUM_TEST],
        "VitGpt2.py": ["--model", models["captioner"]],
        "enrich_captions.py": ["--captioner", "VitGpt2"],
        "dataset_evaluate.py": ["--model", models["clip"]],
        "train.py": ["--captioner", "VitGpt2", "--pretrained_model_name_or_path", base, "--embedding_steps", 1,
                     "--finetune_steps", 1],
        "cal_fid.py": ["--features", "synthetic"],
        "cal_kid.py": ["--features", "synthetic"],
    }


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """(folder in which all commands were run, {script: what it printed})."""
    folder = tmp_path_factory.mktemp("pipeline")
    write_hagrid(folder, (GESTURE, "call"), num_images=24, resolution=128)
    models = {"captioner": build_tiny_vit_gpt2(folder / "captioner"), "clip": build_tiny_clip(folder / "clip")}
    (folder / "tmp").mkdir()
    shutil.copytree(find_models()[0].parent, folder / "home/.cache/hand1000")  # as `make` has put them there
    # No HF_HUB_OFFLINE and no other place for a cache than the home folder: what is written and asked shows by itself.
    environment = {name: value for name, value in os.environ.items()
                   if not name.startswith(("HF_", "XDG_", "TORCH", "MPLCONFIGDIR"))}
    environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'watched_python'}",
                    "PYTHONDONTWRITEBYTECODE": "1", "HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"),
                    "WATCH_LOG": str(folder / "watched")}

    server = scripts.ForkServer(environment)

    def run(command):
        result = scripts.run(command, cwd=folder, env=environment, server=lambda: server)
        assert result.returncode == 0, f"{command}\n{result.stderr[-2000:]}"
        return result.stdout

    printed = {}
    for python, *command in readme_commands():
        assert python == "python"
        command = [re.sub(r"\bcall\b", GESTURE, word).replace("BLIP2", "VitGpt2") for word in command]
        script = command[1] if command[0] == "-m" else command[0]
        in_place = command if command[0] == "-m" else [ROOT / command[0], *command[1:]]
        printed[script] = run([*in_place, *small_flags(models).get(script, [])])
        if script in ("cal_fid.py", "cal_kid.py"):
            printed[f"{script} landmarks"] = run([*in_place, "--features", "landmarks"])
    return folder, printed


def test_every_stage_has_its_command_in_the_readme(walked):
    _, printed = walked
    captioners = {"BLIP2.py", "PaliGemma.py", "VitGpt2.py"}
    files = {path.name for path in ROOT.glob("*.py")}
    assert files - captioners == {name for name in printed if name.endswith(".py")} - captioners
    assert {"utils.hagrid", "utils.results_table", "VitGpt2.py"} <= printed.keys()


def test_nobody_is_in_both_sets_and_every_line_has_its_image_and_the_phrase(walked):
    folder, _ = walked
    persons = []
    for split, count in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        data = folder / "data" / GESTURE / split
        names, captions, enriched = ((data / f"VitGpt2_{kind}.txt").read_text().splitlines()
                                     for kind in ("filenames", "captions", "enriched"))
        assert sorted(names) == sorted(path.name for path in (data / "images").iterdir())
        assert len(names) == len(captions) == len(enriched) == count
        assert all(line.count(GESTURES[GESTURE].phrase) == 1 for line in enriched)
        persons.append({record["user_id"] for record in read_json(data / "annotations.json").values()})
    assert not persons[0] & persons[1]
    assert [path.name for path in (folder / "data").iterdir()] == [GESTURE]


def test_stage_one_measured_the_annotated_hands(walked):
    folder, _ = walked
    counts = read_json(folder / "outputs" / GESTURE / "gesture_feature.json")
    assert counts["num_images"] == NUM_TRAIN and counts["num_by_annotation"] == counts["num_used"] > 0


def test_numbers_of_all_kinds_end_in_one_table(walked):
    folder, printed = walked
    rows = read_rows(folder / "outputs" / GESTURE / "results.jsonl")
    found = {(row["script"], row.get("features")) for row in rows if row["name"] == "tuned"}
    assert found == {("hand_confidence.py", None), ("cal_fid.py", "synthetic"), ("cal_fid.py", "landmarks"),
                     ("cal_kid.py", "synthetic"), ("cal_kid.py", "landmarks")}
    assert all(row["num_fake"] == NUM_TEST for row in rows if "num_fake" in row)
    assert "real" in printed["utils.results_table"] and "KID-H (landmarks)" in printed["utils.results_table"]
    assert len(list((folder / "outputs" / GESTURE / "images").glob("*.png"))) == NUM_TEST
    assert "phrase" in printed["dataset_evaluate.py"]


def test_nobody_is_called_and_nothing_is_written_outside_the_given_folders(walked):
    folder, _ = walked
    events = [json.loads(line) for line in (folder / "watched").read_text().splitlines()]
    assert [event for event in events if event[0].startswith("socket.")] == []
    written = {Path(path) for event, path in events} - {Path(os.devnull)}
    expected = [folder / name for name in ("data", "outputs", "home/.cache", "home/.config", "tmp")]
    assert [path for path in written if not any(path.is_relative_to(place) for place in expected)
            and path != folder / "home"] == []
    # The watch itself sees what it is there for.
    assert {folder / "outputs", folder / "data"} <= {parent for path in written for parent in path.parents}
    # Everything made in the temporary folder is gone again, but for the cache that torch keeps there.
    assert [path.name for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor_")] == []


def test_the_docs_have_every_gesture_with_its_phrase():
    page = (ROOT / "docs" / "gestures.md").read_text(encoding="utf-8")
    assert [name for name, row in GESTURES.items() if f"| `{name}` | {row.phrase} |" not in page] == []
