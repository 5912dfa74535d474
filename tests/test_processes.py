"""Runs of several processes: train.py and image_generation.py do the same, whatever their number."""

import os
import socket
import subprocess
import textwrap
import time

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tests import scripts
from tests.rendered_hands import add_useless_files, render_folder
from tests.training_world import write_world
from utils.system import processes
from utils.system.files import read_rows

# What accelerate launch calls for several GPUs; on a CPU it would start one process whatever --num_processes says.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", 2, "--main_process_port"]
FLAGS = ["--batch_size", 3, "--embedding_steps", 3, "--embedding_lr", 0.01, "--finetune_steps", 4, "--finetune_lr",
         1e-4, "--num_validation_images", 1, "--keep_checkpoints"]


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_pipeline):
    """(folder, flags) of five images, so that no batch of three falls into two equal parts."""
    return write_world(tmp_path_factory.mktemp("world"), tiny_pipeline, num_images=5)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def begin(args):
    """Two processes of a script, with the variables that launchers give them."""
    group = {**os.environ, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
             "MASTER_PORT": str(free_port())}
    return [scripts.start(args, env={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)}, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) for rank in range(2)]


def finish(pair):
    """(exit status of the first that failed, or 0; standard output and standard error of both)."""
    outputs, errors = zip(*(process.communicate(timeout=300) for process in pair), strict=True)
    return next((process.returncode for process in pair if process.returncode), 0), "".join(outputs), "".join(errors)


def launch(args):
    return finish(begin(args))


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory, run_script):
    """{number of processes: (folder of the run, standard output, standard error)} of the same training."""
    root = tmp_path_factory.mktemp("runs")
    command = ["train.py", *world[1], *FLAGS, "--output_dir"]
    alone = run_script([*command, root / "one"])
    assert alone.returncode == 0, alone.stderr
    # The launcher is itself a script, the two that it starts are fresh Pythons
    two = run_script([*LAUNCH, free_port(), *command, root / "two"])
    assert two.returncode == 0, two.stderr
    return {number: (root / name / "call", run.stdout, run.stderr) for number, name, run in (
        (1, "one", alone), (2, "two", two))}


def load_residuals(folder):
    return torch.cat([tensor for path in sorted((folder / "checkpoints" / "residuals").iterdir())
                      for tensor in load_file(path).values()])


def test_two_processes_learn_the_embeddings_of_one(runs):
    one, two = (load_residuals(runs[count][0]) for count in (1, 2))
    assert one.shape == (5, 16, 32) and one.abs().min(dim=2).values.max() > 1e-3  # they have moved
    torch.testing.assert_close(two, one, atol=1e-5, rtol=0)


def test_two_processes_have_the_losses_and_the_model_of_one(runs):
    one, two = ([(row["stage"], row["loss"]) for row in read_rows(runs[count][0] / "losses.jsonl")] for count in (1, 2))
    assert [stage for stage, _ in one] == [stage for stage, _ in two] == ["Stage II"] * 6 + ["Stage III"] * 7
    assert [loss for _, loss in two] == pytest.approx([loss for _, loss in one], rel=1e-5)
    one, two = (load_file(runs[count][0] / "model/unet/diffusion_pytorch_model.safetensors") for count in (1, 2))
    assert all(torch.allclose(one[name], two[name], atol=2e-5) for name in one)


def test_only_the_first_process_writes_and_talks(runs):
    one, two = (runs[count] for count in (1, 2))
    assert {path.relative_to(one[0]) for path in one[0].rglob("*")} == {path.relative_to(two[0])
                                                                       for path in two[0].rglob("*")}
    logs = [[line[20:].replace(str(run[0]), "") for line in (run[0] / "train.log").read_text().splitlines()]
            for run in (one, two)]
    assert len(logs[0]) == len(logs[1]) and logs[0][0] == logs[1][0]
    assert one[1].count("finished: ") == two[1].count("finished: ") == 1
    assert "in process 1" not in two[2]


def test_a_finished_run_is_left_alone_and_other_settings_are_refused_by_two(runs, world):
    command = ["train.py", *world[1], *FLAGS, "--output_dir", runs[2][0].parent]
    before = {path: path.stat().st_mtime_ns for path in runs[2][0].rglob("*")}
    status, output, _ = launch(command)
    assert status == 0 and output.count("is finished, the model is in") == 1
    status, _, errors = launch([*command, "--Lambda", 0.5])
    assert status == 1 and errors.count("error: ") == 1 and "Lambda: 0.7 there, 0.5 now" in errors
    assert {path: path.stat().st_mtime_ns for path in runs[2][0].rglob("*")} == before


def test_what_two_have_begun_one_can_finish(runs, world, tmp_path, run_script):
    command = ["train.py", *world[1], *FLAGS, "--output_dir", tmp_path]
    pair = begin(command)
    while pair[0].poll() is None and not list(tmp_path.glob("call/checkpoints/step-*")):
        time.sleep(0.005)
    for process in pair:
        process.kill()
    status, output, _ = finish(pair)
    assert status != 0 and "finished: " not in output
    result = run_script(command)
    assert result.returncode == 0 and "going on from" in result.stdout
    losses = [[row["loss"] for row in read_rows(folder / "losses.jsonl")] for folder in (tmp_path / "call", runs[1][0])]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_two_processes_draw_the_images_of_one(runs, tmp_path, run_script):
    (tmp_path / "names.txt").write_text("".join(f"{i}\n" for i in range(5)))
    (tmp_path / "prompts.txt").write_text("".join(f"a {color} hand\n" for color in ("red", "blue", "red", "a", "hand")))
    command = ["image_generation.py", "--image_filenames_file", tmp_path / "names.txt", "--prompts_file",
               tmp_path / "prompts.txt", "--ckpt", runs[1][0] / "model", "--mu", 0.5, "--num_inference_steps", 3,
               "--device", "cpu", "--img_save_path"]
    alone = run_script([*command, tmp_path / "one"])
    status, output, errors = launch([*command, tmp_path / "two"])
    assert alone.returncode == status == 0, errors
    assert output.replace(str(tmp_path / "two"), str(tmp_path / "one")) == alone.stdout
    for number in range(5):
        one, two = (np.asarray(Image.open(tmp_path / name / f"{number}.png"), int) for name in ("one", "two"))
        assert np.abs(one - two).max() <= 1
    (tmp_path / "two" / "3.png").unlink()
    status, output, _ = launch([*command, tmp_path / "two"])
    assert status == 0 and "Drawing 1 images, 4 are already there" in output and (tmp_path / "two" / "3.png").exists()


def test_two_processes_measure_what_one_measures(tmp_path, run_script):
    render_folder(tmp_path / "call", "call", 7)
    render_folder(tmp_path / "peace", "peace", 6)
    add_useless_files(tmp_path / "peace")
    command = ["cal_kid.py", "--real_images", tmp_path / "call", "--fake_images", tmp_path / "peace", "--features",
               "synthetic", "--device", "cpu", "--num_workers", 1, "--cache_dir", tmp_path / "cache", "--output"]
    alone = run_script([*command, tmp_path / "one.jsonl"])
    status, output, errors = launch([*command, tmp_path / "two.jsonl"])
    assert alone.returncode == status == 0, errors
    (one,), (two,) = (read_rows(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert one.pop("kid") == pytest.approx(two.pop("kid"), rel=1e-4)
    assert one.keys() == two.keys() and one["kid_h_num_fake"] == two["kid_h_num_fake"] > 2
    assert one["kid_h"] == pytest.approx(two["kid_h"], rel=1e-4) and one["num_skipped"] == two["num_skipped"] == 1
    assert len(output.splitlines()) == len(alone.stdout.splitlines())


def test_two_processes_end_their_group_and_tell_an_explosion_once(world, tmp_path):
    script = tmp_path / "watch.py"
    script.write_text(textwrap.dedent("""\
        import contextlib, os, sys, time; sys.path.insert(0, ".")
        import torch, train
        from utils.system import processes, script

        def threads():
            names = []
            for number in os.listdir("/proc/self/task"):
                with contextlib.suppress(OSError):  # it has just ended
                    names.append(open(f"/proc/self/task/{number}/comm").read().strip())
            return " ".join(names)

        def leave(end=processes.leave):
            end()
            deadline = time.monotonic() + 10  # a thread that was waited for is listed a moment longer
            while "gloo" in threads() and time.monotonic() < deadline:
                time.sleep(0.01)
            with open(f"{sys.argv[-1]}-{os.environ['RANK']}", "w") as file:
                file.write(f"{torch.distributed.is_initialized()} {threads()}")

        processes.leave = leave
        script.run_main(train.main, train.parse_args())
        """))
    for steps, wanted in ((0, 0), (1, 1)):  # finetune_steps and exit status
        status, _, errors = launch([script, *world[1], "--embedding_steps", 0, "--finetune_steps", steps,
                                           "--finetune_lr", 1e30, "--lr_warmup_steps", 0, "--output_dir",
                                           tmp_path / str(steps)])
        assert status == wanted and errors.count("error: ") == wanted, errors
        assert ("is not finite any more" in errors) == bool(wanted)
        for rank in range(2):
            is_grouped, threads = (tmp_path / f"{steps}-{rank}").read_text().split(" ", 1)
            assert is_grouped == "False" and "gloo" not in threads


# Shares


@pytest.mark.parametrize(("num_items", "count"), [(7, 2), (3, 4), (8, 4), (1, 1), (5, 1)])
def test_the_parts_of_a_batch_are_equally_long_and_hold_each_item_once(num_items, count, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", str(count))
    size = -(-num_items // count)
    seen = []
    for rank in range(count):
        monkeypatch.setenv("RANK", str(rank))
        places, weights = processes.own_part(num_items, size)
        assert len(places) == len(weights) == size and all(0 <= place < num_items for place in places)
        seen += [place for place, weight in zip(places, weights, strict=True) if weight]
    assert seen == list(range(num_items))


def test_one_process_does_all_itself(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert processes.share_out([3, 4], lambda part: [2 * item for item in part]) == [6, 8]
    assert processes.total(torch.ones(2)).tolist() == [1, 1]


@pytest.mark.parametrize(("variables", "expected"), [
    ({}, (1, 0)), ({"RANK": "1"}, (1, 0)), ({"WORLD_SIZE": "1"}, (1, 0)), ({"WORLD_SIZE": "3", "RANK": "2"}, (3, 2))])
def test_a_rank_counts_only_among_several(variables, expected, monkeypatch):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert (processes.count(), processes.rank()) == expected
