"""Double fusion: the frozen layer's numbers, exactness and memory; the trained layer's start; files."""

import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from utils.method.fusion import (
    BIAS_STREAM,
    WEIGHT_STREAM,
    FrozenFusion,
    TrainedFusion,
    check_digest,
    check_sizes,
    fuse,
    load_fusion,
    philox,
    random_int16,
    save_fusion,
)
from utils.system.digests import sha256
from utils.system.errors import UserError

CONFIG = {"gesture": "call", "Lambda": 0.7, "feature": "canonical", "sequence_length": 5, "embed_dim": 12,
          "seed": 3, "pretrained_model_name_or_path": "tiny"}


# The frozen layer of SD v1.4's size with seed 1, from row 40,000 on.
PINNED = {
    "first": [[-10921, -11124, 25521, -16016], [17075, 17006, -10147, -28461]],
    "last": [[-18996, -24250, -11134, -11928], [-11399, 23538, -7047, -24832]],
    "bias": [25502, -5370, 12416, 26648],
    "outputs": ["-0x1.3260540000000p-1", "0x1.fff3860000000p-10",
                "-0x1.0aef180000000p-2", "0x1.a5ae000000000p-3"],
}


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weight_and_bias(fusion):
    """The frozen layer written out: (out, in) and (out,) fp64."""
    block = torch.empty(fusion.out_features, fusion.in_features, dtype=torch.float64)
    fusion.fill_weight(block, 0)
    return block * fusion.grid, fusion.make_bias(0, fusion.out_features) * fusion.grid


def as_linear(fusion):
    """The frozen layer as an ordinary fp32 torch.nn.Linear."""
    linear = nn.Linear(fusion.in_features, fusion.out_features)
    with torch.no_grad():
        for parameter, values in zip((linear.weight, linear.bias), weight_and_bias(fusion), strict=True):
            parameter.copy_(values)
    return linear


def correlation(a, b):
    return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]).double())[0, 1].abs().item()


# The generator


# Random123's published vectors (tests/kat_vectors): counter, key, output.
@pytest.mark.parametrize("counter, key, expected", [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
])
def test_philox_gives_the_published_answers(counter, key, expected):
    counter, key, expected = ([int(word, 16) for word in text.split()] for text in (counter, key, expected))
    words = philox([torch.tensor([word]) for word in counter], key)
    assert [word.item() & 0xFFFFFFFF for word in words] == expected


def test_a_weight_depends_on_its_row_column_stream_and_seed_alone():
    """Against one philox call per number, with plain integers, at places far apart."""
    for row, column, stream, seed in [(0, 0, 0, 0), (59135, 7399, 0, 2**63 - 1), (17, 40, 1, 2**32 + 5)]:
        words = philox([torch.tensor(c) for c in (column, row, stream, 0)], (seed % 2**32, seed // 2**32))
        expected = struct.unpack("<8h", struct.pack("<4I", *(int(word) % 2**32 for word in words)))
        rows, columns = torch.tensor([3, row, 5]), torch.tensor([1, 2, column])
        assert random_int16(rows, columns, stream, seed)[1, -8:].tolist() == list(expected)


def test_the_numbers_of_the_frozen_layer_never_change():
    """Pinned: a saved model keeps the seed alone, so other numbers would be another model."""
    fusion = FrozenFusion(77, 768, seed=1)
    block = torch.empty(2, fusion.in_features, dtype=torch.float64)
    fusion.fill_weight(block, 40_000)
    assert block[:, :4].tolist() == PINNED["first"]
    assert block[:, -4:].tolist() == PINNED["last"]
    assert fusion.make_bias(40_000, 40_004).tolist() == PINNED["bias"]
    prompt_embeds = (torch.arange(77 * 768) % 1009 / 1009).view(1, 77, 768)
    outputs = fusion.project(prompt_embeds, torch.arange(63) / 64, 40_000, 40_004)
    assert [value.hex() for value in outputs[0].tolist()] == PINNED["outputs"]


def test_frozen_weights_have_the_statistics_of_a_new_linear_layer():
    fusion = FrozenFusion(8, 64)  # 575 -> 512
    bound = fusion.in_features ** -0.5
    for values, reference in zip(weight_and_bias(fusion), nn.Linear(575, 512).parameters(), strict=True):
        assert values.shape == reference.shape
        assert values.abs().max() <= bound and reference.abs().max() <= bound
        error = bound / (3 * values.numel()) ** 0.5  # standard error of the mean
        assert values.mean().abs() < 4 * error
        assert (values.square().mean() * 3 / bound**2 - 1).abs() < 4 * (0.8 / values.numel()) ** 0.5


def test_frozen_weights_are_uniform_in_every_bit():
    integers = random_int16(torch.arange(512), torch.arange(256), WEIGHT_STREAM, 0)  # 2^20 numbers
    for shift in (0, 8):  # low and high byte; chi-square of mean 255, deviation 22.6
        counts = torch.bincount(((integers.int() >> shift) & 255).flatten(), minlength=256).double()
        chi_square = ((counts - 4096) ** 2 / 4096).sum()
        assert 255 - 4 * 22.6 < chi_square < 255 + 4 * 22.6
    bits = (integers.int()[..., None] >> torch.arange(16)) & 1
    assert ((bits.double().mean(dim=(0, 1)) - 0.5).abs() < 4 * 0.5 / 2**10).all()


def test_neighbouring_rows_columns_seeds_and_streams_do_not_correlate():
    rows, columns = torch.arange(512), torch.arange(256)
    integers = random_int16(rows, columns, WEIGHT_STREAM, 0)
    limit = 4.5 / integers.numel() ** 0.5
    for step in range(1, 18):
        assert correlation(integers[step:], integers[:-step]) < limit
        assert correlation(integers[:, step:], integers[:, :-step]) < limit
    for stream, seed in [(WEIGHT_STREAM, 1), (WEIGHT_STREAM, 2**32), (BIAS_STREAM, 0)]:
        assert correlation(integers, random_int16(rows, columns, stream, seed)) < limit
    # No linear dependence anywhere: the spectrum is a random matrix's (Marchenko-Pastur edges).
    singular = torch.linalg.svdvals(integers[:, :1024].double() * 3**0.5 / 2**15 / 1024**0.5)
    assert 0.27 < singular.min() and singular.max() < 1.73  # 1 -+ sqrt(512 / 1024) = 0.293, 1.707


# The frozen layer


@pytest.mark.parametrize("sequence_length, embed_dim", [(5, 12), (16, 32)])
def test_frozen_fusion_equals_a_linear_layer_with_the_same_weights(sequence_length, embed_dim):
    fusion = FrozenFusion(sequence_length, embed_dim, seed=7)
    prompt_embeds, feature = draw(9, sequence_length, embed_dim), draw(63, seed=1)
    prompt_embeds[:, :, 3] *= 28  # CLIP has such a channel
    inputs = torch.cat([prompt_embeds.flatten(1), feature.expand(9, -1)], dim=1)
    expected = as_linear(fusion)(inputs).view_as(prompt_embeds)
    fused = fusion(prompt_embeds.requires_grad_(), feature, block_bytes=8 * fusion.in_features * 7)
    assert fused.dtype == torch.float32 and not fused.requires_grad
    torch.testing.assert_close(fused, expected.detach(), rtol=1e-5, atol=2e-5)


def test_frozen_fusion_is_the_same_for_any_block_size_and_number_of_prompts():
    fusion = FrozenFusion(6, 20, seed=1)
    prompt_embeds, feature = draw(40, 6, 20) * torch.logspace(-3, 3, 40)[:, None, None], draw(63, seed=1)
    expected = fusion(prompt_embeds, feature)
    for rows in (1, 2, 13, 64, 119, 120, 500):
        block_bytes = rows * 8 * fusion.in_features
        assert torch.equal(fusion(prompt_embeds, feature, block_bytes), expected)
    for count in (1, 2, 3, 17):
        assert torch.equal(fusion(prompt_embeds[:count], feature), expected[:count])
    assert torch.equal(fusion(prompt_embeds.flip(0), feature.expand(40, -1)), expected.flip(0))
    assert fusion(prompt_embeds[:0], feature).shape == (0, 6, 20)


def test_frozen_fusion_at_stable_diffusion_size_is_the_same_for_any_block_size_and_number_of_prompts():
    fusion = FrozenFusion(77, 768)
    prompt_embeds, feature = draw(6, 77, 768), draw(63, seed=1)
    expected = fusion.project(prompt_embeds, feature, 59_000, 59_033)
    row_bytes = 8 * fusion.in_features
    assert torch.equal(fusion.project(prompt_embeds, feature, 59_000, 59_033, 5 * row_bytes), expected)
    assert torch.equal(fusion.project(prompt_embeds[2:3], feature, 59_010, 59_020), expected[2:3, 10:20])
    # The order of the sum does not matter either: it equals one of exact 64-bit integers.
    block = torch.empty(3, fusion.in_features, dtype=torch.float64)
    fusion.fill_weight(block, 59_000)
    inputs = torch.cat([prompt_embeds[0].flatten(), feature])
    unit = 2.0 ** (torch.frexp(inputs.abs().max()).exponent.item() - 22)
    sums = (block.long() * (inputs / unit).round().long()).sum(dim=1).double()
    results = sums * (unit * fusion.grid) + fusion.make_bias(59_000, 59_003) * fusion.grid
    assert torch.equal(results.float(), expected[0, :3])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_frozen_fusion_on_a_gpu_equals_the_cpu():
    prompt_embeds, feature = draw(6, 77, 768), draw(63, seed=1)
    fusion = FrozenFusion(77, 768)
    on_gpu = fusion.project(prompt_embeds.cuda(), feature, 0, 600)
    assert on_gpu.is_cuda
    assert torch.equal(on_gpu.cpu(), fusion.project(prompt_embeds, feature, 0, 600))


MEASURE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
torch.set_num_threads(1)
from utils.method.fusion import FrozenFusion
def peak():  # since exec, unlike ru_maxrss, which begins with the parent's
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) * 1024
fusion, prompt_embeds, feature = FrozenFusion(77, 768), torch.randn(200, 77, 768), torch.rand(63)
before = peak()
outputs = fusion.project(prompt_embeds, feature, 0, 1200)
print(peak() - before + 4 * outputs.shape[0] * (fusion.out_features - 1200))
"""


def test_frozen_fusion_at_stable_diffusion_size_takes_less_than_a_gigabyte():
    """200 prompts, the first 1,200 of 59,136 rows (three blocks), outputs counted at full size.

    Below 0.6 GB, so that another 800 prompts, of 0.47 MB each, have room.
    """
    command = [sys.executable, "-c", MEASURE, Path(__file__).resolve().parent.parent]
    extra = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0.1e9 < extra < 0.6e9


def test_frozen_fusion_refuses_a_seed_it_cannot_hold():
    for seed in (-1, 2**64):
        with pytest.raises(ValueError, match="seed must be"):
            FrozenFusion(5, 12, seed=seed)


# The trained layer


@pytest.mark.parametrize("feature_shape", [(63,), (4, 63)])
def test_trained_fusion_starts_as_the_embedding_itself(feature_shape):
    fusion, prompt_embeds = TrainedFusion(32), draw(4, 16, 32)
    assert torch.equal(fusion(prompt_embeds, draw(*feature_shape, seed=1)), prompt_embeds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fusion(prompt_embeds, draw(*feature_shape, seed=1)), prompt_embeds)
    half, feature = prompt_embeds.half(), draw(*feature_shape, seed=1).double()
    assert torch.equal(fusion(half, feature), half.float())


def test_trained_fusion_is_one_layer_shared_by_all_positions():
    fusion, prompt_embeds, features = TrainedFusion(32), draw(4, 16, 32), draw(4, 63, seed=1)
    nn.init.normal_(fusion.fc.weight, generator=torch.Generator().manual_seed(0))
    fused = fusion(prompt_embeds, features)
    torch.testing.assert_close(fusion(prompt_embeds.flip(1), features), fused.flip(1))
    alone = fusion(prompt_embeds[2:3, 5:6], features[2])
    torch.testing.assert_close(alone, fused[2:3, 5:6])
    token = torch.cat([prompt_embeds[2, 5] / 32**0.5, features[2] / features[2].norm()])
    torch.testing.assert_close(fused[2, 5], prompt_embeds[2, 5] + fusion.fc.weight @ token)


def test_trained_fusion_learns_alike_whatever_the_unit_of_the_feature():
    target, losses = draw(8, 16, 32) + 0.3 * draw(32, seed=2), []
    for scale in (1e-2, 1.0, 1e3):
        fusion, feature = TrainedFusion(32), scale * draw(63, seed=1)
        optimizer = torch.optim.Adam(fusion.parameters(), lr=1e-2)
        for _ in range(20):
            loss = (fusion(draw(8, 16, 32), feature) - target).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-3)
    assert losses[0] < 0.1 * (0.3 * draw(32, seed=2)).square().mean()


def test_a_feature_of_zeros_is_the_control_without_a_gesture():
    fusion, prompt_embeds = TrainedFusion(32), draw(2, 16, 32)
    fusion(prompt_embeds, torch.zeros(63)).square().sum().backward()
    assert fusion.fc.weight.grad.isfinite().all() and fusion.fc.weight.grad[:, :32].abs().sum() > 0
    assert fusion.fc.weight.grad[:, 32:].abs().sum() == 0


def test_fuse_returns_the_embedding_at_one_and_the_fused_at_zero():
    prompt_embeds, fused = draw(2, 16, 32), draw(2, 16, 32, seed=1)
    assert torch.equal(fuse(prompt_embeds, fused, 1.0), prompt_embeds)
    assert torch.equal(fuse(prompt_embeds, fused, 0.0), fused)
    torch.testing.assert_close(fuse(prompt_embeds, fused, 0.7), 0.7 * prompt_embeds + 0.3 * fused)
    for weight in (0.1, 0.5, 0.7):
        assert torch.equal(fuse(prompt_embeds, prompt_embeds.clone(), weight), prompt_embeds)


# Files


def trained_fusion():
    fusion = TrainedFusion(12)
    nn.init.normal_(fusion.fc.weight, generator=torch.Generator().manual_seed(0))
    return fusion


@pytest.mark.parametrize("fusion", [trained_fusion(), FrozenFusion(5, 12, seed=2**63 - 1)])
def test_a_saved_fusion_comes_back_with_feature_and_config(fusion, tmp_path):
    prompt_embeds, feature = draw(3, 5, 12), draw(63, seed=1)
    save_fusion(tmp_path, fusion, feature, CONFIG)
    loaded, loaded_feature, config = load_fusion(tmp_path)
    digest = sha256([(tmp_path / "fusion.safetensors").read_bytes()])
    assert type(loaded) is type(fusion) and config == {**CONFIG, **fusion.settings(), "fusion_sha256": digest}
    assert torch.equal(loaded_feature, feature)
    assert torch.equal(loaded(prompt_embeds, feature), fusion(prompt_embeds, feature))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fusion.json", "fusion.safetensors"]


def test_fusion_files_are_small_at_stable_diffusion_size(tmp_path):
    save_fusion(tmp_path / "frozen", FrozenFusion(77, 768), draw(63), {})
    save_fusion(tmp_path / "trained", TrainedFusion(768), draw(63), {"sequence_length": 77})
    assert (tmp_path / "frozen" / "fusion.safetensors").stat().st_size < 1000
    assert (tmp_path / "trained" / "fusion.safetensors").stat().st_size < 3e6


def change_config(**changes):
    """Function(folder) that edits fusion.json; a value of None takes the name out."""
    def edit(folder):
        config = json.loads((folder / "fusion.json").read_text())
        config = {name: value for name, value in {**config, **changes}.items() if value is not None}
        (folder / "fusion.json").write_text(json.dumps(config))
    return edit


def change_tensors(**changes):
    """Function(folder) that passes tensors of fusion.safetensors through functions."""
    def edit(folder):
        tensors = safetensors.torch.load_file(folder / "fusion.safetensors")
        for name, change in changes.items():
            tensors[name] = change(tensors.get(name))
        safetensors.torch.save_file(tensors, folder / "fusion.safetensors")
    return edit


def cut(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


def spoil(value):
    return lambda tensor: torch.where(torch.arange(tensor.numel()).view_as(tensor) == 7, value, tensor)


BOTH, TRAINED, FROZEN = ("trained", "frozen"), ("trained",), ("frozen",)
DAMAGE = [
    (BOTH, lambda folder: (folder / "fusion.json").unlink(), "fusion.json is missing"),
    (BOTH, lambda folder: (folder / "fusion.safetensors").unlink(), "fusion.safetensors is missing"),
    (BOTH, cut("fusion.json", 20), "fusion.json: not valid JSON"),
    (BOTH, cut("fusion.safetensors", 250), "does not belong to"),
    (BOTH, change_config(feature_dim=None), "damaged or of two trainings"),
    (BOTH, change_config(feature_dim=60), "fusion.json"),
    (FROZEN, change_config(seed=-1), "damaged or of two trainings"),
    (TRAINED, change_config(embed_dim=13), "has other sizes than fusion.json says"),
    (FROZEN, change_config(fusion="trained"), "damaged or of two trainings"),
]
UNSIGNED = [  # as earlier versions wrote it, without a digest of fusion.safetensors
    (BOTH, lambda folder: torch.save({}, folder / "fusion.safetensors"), "damaged or of two trainings"),
    (BOTH, change_tensors(feature=lambda tensor: tensor[:62].clone()), "has other sizes than fusion.json says"),
    (BOTH, change_tensors(feature=spoil(float("nan"))), "not finite"),
    (TRAINED, change_tensors(**{"fc.weight": spoil(float("inf"))}), "not finite"),
    (TRAINED, change_tensors(extra=lambda tensor: torch.zeros(2)), "damaged or of two trainings"),
]
ROWS = [(kind, damage, says, rows is DAMAGE) for rows in (DAMAGE, UNSIGNED) for kinds, damage, says in rows
        for kind in kinds]


@pytest.mark.parametrize("kind, damage, says, is_signed", ROWS)
def test_a_damaged_fusion_is_refused_in_one_line(kind, damage, says, is_signed, tmp_path):
    fusion = trained_fusion() if kind == "trained" else FrozenFusion(5, 12)
    save_fusion(tmp_path, fusion, draw(63), CONFIG)
    if not is_signed:
        change_config(fusion_sha256=None)(tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError) as caught:
        load_fusion(tmp_path)
    message = str(caught.value)
    assert str(tmp_path) in message and says in message and "\n" not in message


def test_a_fusion_of_another_base_model_is_refused():
    check_sizes(CONFIG, 5, 12)
    for sizes in ((5, 16), (6, 12)):
        with pytest.raises(UserError, match=r"of 5 x 12, the base model makes \d+ x \d+; use the base model"):
            check_sizes(CONFIG, *sizes)


def test_a_fusion_of_other_weights_is_refused_and_an_old_one_without_digest_is_warned_of(capsys):
    check_digest({"weights_sha256": "12ab"}, "weights_sha256", "12ab", "model")
    assert capsys.readouterr().err == ""
    with pytest.raises(UserError, match=r"does not belong to model \(weights_sha256: 12ab there, 34cd now\); use"):
        check_digest({"weights_sha256": "12ab"}, "weights_sha256", "34cd", "model")
    check_digest({}, "weights_sha256", "34cd", "model")
    assert re.fullmatch("warning: fusion.json has no weights_sha256.*model\n", capsys.readouterr().err)
