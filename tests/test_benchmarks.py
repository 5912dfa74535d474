"""The benchmark of training runs at its smallest and prints what its notes are made of; memory is that of a peak."""

import re
import time

import torch

from benchmarks import scale, stable_diffusion
from utils.system.process_pool import map_in_processes


def test_every_row_of_the_training_benchmark_is_measured(capsys):
    stable_diffusion.main(stable_diffusion.parse_args(["--batch_size", "2", "--num_updates", "1", "--device", "cpu"]))
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert [row[0] for row in rows] == [
        "Stage II", "Stage III", "Stage III, paper", "generation, 10 steps with guidance", "published Stage II",
        "published Stage III", "diffusers step"]
    assert all(float(row[3]) > 0 and float(row[5]) > 0 and row[6].endswith("%") for row in rows)
    work = {row[0]: float(row[5]) / float(row[3]) for row in rows}  # TFLOP per sample
    assert work["Stage II"] < 0.8 * work["published Stage II"]  # no gradients of the frozen U-Net
    assert re.search(r"[\d.]+ times as fast as the published loop", lines[-2])


def test_rows_of_different_precision_follow_each_other():
    """As on a GPU, where the preset paper is fp32 and the others bf16."""
    args = stable_diffusion.parse_args(["--batch_size", "2", "--num_updates", "1", "--device", "cpu"])
    device = torch.device("cpu")
    rows = [stable_diffusion.measure_stage("Stage III", args, device, "bf16"),
            stable_diffusion.measure_stage("Stage III", args, device, "no", "paper", batch_size=1),
            stable_diffusion.measure_generation(args, device, torch.bfloat16, "bf16")]
    assert [row["dtype"] for row in rows] == ["bf16", "no", "bf16"] and all(row["rate"] > 0 for row in rows)


def hold_memory(size):
    block = bytearray(size)
    time.sleep(10 * scale.SAMPLING_SECONDS)
    return len(block)


def test_memory_that_another_process_has_had_counts():
    def hold():
        with map_in_processes(hold_memory, [300_000_000], 1) as held:
            assert next(held) == 300_000_000

    assert scale.measure(hold)[1] > 300_000_000
    assert scale.measure(int)[1] < 100_000_000
