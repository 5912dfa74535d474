"""InceptionV3 against torch-fidelity and torchvision (their values are stored), its resizes, its weight files."""

import hashlib
import io
import json
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from utils.metrics import inception
from utils.metrics.inception_input import prepare_clean, prepare_published
from utils.metrics.inception_network import InceptionV3
from utils.system.errors import UserError

STORED = json.loads((Path(__file__).parent / "fixtures" / "inception.json").read_text())
VARIANTS = sorted(STORED)
AUX = {"AuxLogits.fc.bias": torch.zeros(1000)}


# Helpers


def is_counter(name):
    return name.endswith("num_batches_tracked")


def draw_trunk():
    """The weights that the stored values were computed with: all but the last layer, from RandomState(0)."""
    random = np.random.RandomState(0)
    tensors = {}
    for name, like in sorted(inception.empty_network("fid").state_dict().items()):
        if name.startswith("fc.") or is_counter(name):
            continue
        values = random.standard_normal(tuple(like.shape)).astype(np.float32)
        if values.ndim > 1:
            values *= np.sqrt(2 / values[0].size, dtype=np.float32)
        else:
            values = values / 10 + name.endswith(("bn.weight", "running_var"))
        tensors[name] = torch.from_numpy(values.astype(np.float32))
    return tensors


def blank_tensors(variant):
    """Tensors of the right names and shapes that all share one number, so that a file of them is small."""
    state = inception.empty_network(variant).state_dict()
    return {name: torch.zeros(()).expand(like.shape) for name, like in state.items() if not is_counter(name)}


def save(path, content):
    torch.save(content, path)
    return path


def random_image(width, height, seed=0):
    pixels = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    return Image.fromarray(pixels.astype(np.uint8))


def resampling_matrix(size, new_size, kernel, support):
    """(new_size, size) weights of an antialiased resize: the kernel, as wide as the pixels that are coarser."""
    scale = size / new_size
    width = max(scale, 1)
    centres = (np.arange(new_size) + 0.5) * scale
    distance = (np.arange(size) + 0.5 - centres[:, None]) / width
    weights = np.where(np.abs(distance) < support, kernel(np.abs(distance)), 0)
    return weights / weights.sum(axis=1, keepdims=True)


def triangle(x):
    return 1 - x


def cubic(x):  # Keys 1981 with a = -1/2
    return np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)


def resize_exactly(image, width, height, kernel, support):
    """(3, height, width) in double precision, neither rounded nor clipped."""
    pixels = np.asarray(image, dtype=np.float64).transpose(2, 0, 1)
    rows = resampling_matrix(image.height, height, kernel, support)
    columns = resampling_matrix(image.width, width, kernel, support)
    return rows @ pixels @ columns.T


@pytest.fixture(scope="module")
def random_network():
    return inception.load_inception("random")


@pytest.fixture(scope="module")
def trunk():
    return draw_trunk()


@pytest.fixture(scope="module")
def pixels():
    values = np.random.RandomState(1).randint(0, 256, (2, 3, 299, 299))
    return torch.from_numpy(values.astype(np.float32))


# The network


@pytest.mark.parametrize("variant", VARIANTS)
def test_names_and_shapes_are_those_of_the_reference(variant):
    state = inception.empty_network(variant).state_dict()
    listing = "".join(f"{name} {tuple(tensor.shape)}\n" for name, tensor in state.items())
    assert hashlib.sha256(listing.encode()).hexdigest() == STORED[variant]["names_sha256"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_features_are_those_of_the_reference_with_the_same_weights(variant, trunk, pixels, tmp_path):
    head = {name: like for name, like in blank_tensors(variant).items() if name.startswith("fc.")}
    network = inception.load_inception(save(tmp_path / "weights.pth", {**trunk, **head}))
    assert network.variant == variant
    expected = torch.tensor(STORED[variant]["features"])  # (2, 32): every 64th feature
    torch.testing.assert_close(network(pixels)[:, ::64], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("variant", "corner"), [("fid", 1), ("imagenet", 4 / 9)])
def test_average_pools_leave_the_padding_out_or_count_it(variant, corner):
    network = InceptionV3(variant).eval()
    pooled = {}
    blocks = ["Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6b", "Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7b"]
    for name in blocks + ["Mixed_7c"] * (variant == "imagenet"):
        block = network.get_submodule(name)
        block.branch_pool.register_forward_pre_hook(lambda _, inputs, name=name: pooled.update({name: inputs[0]}))
        block(torch.ones(1, block.branch1x1.conv.in_channels, 3, 3))
        values = pooled[name][0, 0]
        assert values[0, 0].item() == pytest.approx(corner) and values[1, 1].item() == pytest.approx(1)


def test_pixels_are_scaled_as_each_network_learned_it():
    levels = torch.tensor([0.0, 128.0, 255.0])
    assert inception.empty_network("fid").scale(levels).tolist() == [-1, 0, 127 / 128]
    normalised = (levels / 255 - 0.485) / 0.229  # ImageNet's red, then torchvision's transform_input
    expected = normalised * (0.229 / 0.5) + (0.485 - 0.5) / 0.5
    torch.testing.assert_close(inception.empty_network("imagenet").scale(levels), expected)


def test_other_sizes_are_refused(random_network):
    with pytest.raises(ValueError, match="299"):
        random_network(torch.zeros(1, 3, 512, 512))


def test_features_do_not_depend_on_autocast_and_settings_are_restored(random_network, pixels):
    plain = random_network(pixels[:1])
    inside = []
    hook = random_network.Mixed_7c.register_forward_hook(
        lambda *_: inside.append((torch.backends.cudnn.allow_tf32, torch.backends.cudnn.conv.fp32_precision)))
    allowed = torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cudnn.allow_tf32 = True
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(random_network(pixels[:1]), plain)
            assert torch.is_autocast_enabled("cpu")
        assert inside == [(False, "ieee")]
        assert torch.backends.cudnn.allow_tf32
    finally:
        torch.backends.cudnn.allow_tf32 = allowed
        hook.remove()


# Random weights


def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone(random_network):
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again, other = inception.load_inception("random", seed=0), inception.load_inception("random", seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    state = random_network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_dict().items())
    assert not torch.equal(other.fc.weight, again.fc.weight)
    assert other.settings != again.settings == random_network.settings


def test_random_weights_say_so_and_the_network_is_ready_to_use(random_network):
    assert random_network.name == "random Inception, not comparable"
    assert not random_network.training
    assert not any(parameter.requires_grad for parameter in random_network.parameters())
    assert json.loads(json.dumps(random_network.settings)) == random_network.settings
    assert random_network.prepare is prepare_clean
    assert pickle.loads(pickle.dumps(random_network.prepare)) is prepare_clean


# Resizes


def test_clean_is_an_antialiased_bicubic_resize_that_rounds_nothing():
    image = random_image(640, 211)
    expected = np.clip(resize_exactly(image, 299, 299, cubic, 2), 0, 255)
    prepared = prepare_clean(image)
    np.testing.assert_allclose(prepared, expected, atol=2e-3)
    assert np.mean(prepared == np.round(prepared)) < 0.2 and prepared.dtype == np.float32


def test_clean_clips_what_overshoots():
    edge = Image.new("RGB", (20, 20))
    edge.paste("white", (10, 0, 20, 20))
    unclipped = resize_exactly(edge, 299, 299, cubic, 2)
    assert unclipped.min() < -5 and unclipped.max() > 260
    prepared = prepare_clean(edge)
    assert prepared.min() == 0 and prepared.max() == 255


@pytest.mark.parametrize(("size", "resized", "corner"), [
    ((512, 512), (299, 299), (0, 0)), ((640, 427), (448, 299), (74, 0)), ((333, 1000), (299, 897), (0, 299)),
    ((120, 80), (448, 299), (74, 0)), ((300, 301), (299, 299), (0, 0)), ((50, 52), (299, 310), (0, 6)),
])
def test_published_resizes_the_short_side_and_crops_the_middle(size, resized, corner):
    image = random_image(*size)
    left, top = corner
    expected = resize_exactly(image, *resized, triangle, 1)[:, top:top + 299, left:left + 299]
    prepared = prepare_published(image)
    assert prepared.shape == (3, 299, 299) and prepared.dtype == np.float32
    assert np.array_equal(prepared, np.round(prepared))
    assert np.abs(prepared - expected).max() < 1.01  # Pillow rounds after each of its two passes


@pytest.mark.parametrize("prepare", [prepare_clean, prepare_published])
@pytest.mark.parametrize("size", [(299, 299), (1, 1), (1, 5), (700, 30)])
def test_odd_sizes_keep_their_colour(prepare, size):
    prepared = prepare(Image.new("RGB", size, (10, 20, 30)))
    assert prepared.shape == (3, 299, 299) and prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared, np.full((3, 299, 299), [[[10]], [[20]], [[30]]]), atol=1e-4)


@pytest.mark.parametrize("prepare", [prepare_clean, prepare_published])
def test_an_image_of_the_right_size_is_left_as_it_is(prepare):
    image = random_image(299, 299)
    assert np.array_equal(prepare(image), np.asarray(image).transpose(2, 0, 1))


# Weight files


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_tensors_of_a_file_tell_which_network_it_is_for(variant, tmp_path):
    path = save(tmp_path / "weights.pth", {**blank_tensors(variant), **(AUX if variant == "imagenet" else {})})
    network = inception.load_inception(path, resize="published")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert network.variant == variant and network.prepare is prepare_published
    assert network.settings == {"weights": variant, "weights_sha256": digest, "resize": "published"}
    assert network.name == f"{inception.PUBLISHED[variant].name} (unverified weights {digest[:8]})"


def test_batch_counters_may_be_in_a_file_or_not(tmp_path):
    counters = {name: torch.tensor(3) for name in inception.empty_network("fid").state_dict() if is_counter(name)}
    assert len(counters) == 94
    network = inception.load_inception(save(tmp_path / "weights.pth", {**blank_tensors("fid"), **counters}))
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


def test_safetensors_are_read(trunk, tmp_path):
    head = {name: like.contiguous() for name, like in blank_tensors("fid").items() if name.startswith("fc.")}
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({**trunk, **head}, path)
    network = inception.load_inception(str(path))
    name = "Mixed_7c.branch_pool.conv.weight"
    assert torch.equal(network.state_dict()[name], trunk[name])


def change(**changes):
    """Tensors of the FID network with some changed; None takes one away. Double underscores stand for dots."""
    tensors = blank_tensors("fid")
    for name, value in changes.items():
        name = name.replace("__", ".")
        tensors.pop(name, None)
        tensors |= {} if value is None else {name: value}
    return tensors


@pytest.mark.parametrize(("content", "problem"), [
    ({"conv1.weight": torch.zeros(2)}, 'Missing key(s) in state_dict: "Conv2d_1a_3x3.conv.weight"'),
    ({}, "Missing key(s)"),
    (torch.zeros(3), "Tensor"),
    ({**blank_tensors("fid"), 3: torch.zeros(3)}, "int"),
    (change(fc__weight=None), 'Missing key(s) in state_dict: "fc.weight"'),
    (change(fc__bias=torch.zeros(10)), "size mismatch for fc.bias"),
    (change(fc__bias=torch.zeros(1000)), "size mismatch for fc.weight"),
    (change(fc__weight=[0.0] * 1008), "fc.weight"),
    (change(conv1__weight=torch.zeros(2)), 'Unexpected key(s) in state_dict: "conv1.weight"'),
])
def test_files_of_something_else_are_refused_with_what_was_found(content, problem, tmp_path):
    path = save(tmp_path / "weights.pth", content)
    with pytest.raises(UserError) as caught:
        inception.load_inception(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not the weights of InceptionV3") and problem in message
    assert all(published.url in message for published in inception.PUBLISHED.values()) and "\n" not in message


def test_half_precision_is_computed_in_full(tmp_path, pixels):
    path = tmp_path / "weights.safetensors"
    safetensors.torch.save_file({name: tensor.half().contiguous() for name, tensor in blank_tensors("fid").items()},
                                path)
    assert inception.load_inception(path)(pixels[:1]).dtype == torch.float32


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
@pytest.mark.parametrize("data", [b"", b"not weights\n", pickle.dumps(print), b"PK\x03\x04" + bytes(60)])
def test_files_that_hold_no_tensors_are_refused(name, data, tmp_path):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(UserError, match="cannot be read as weights") as caught:
        inception.load_inception(tmp_path / name)
    assert "\n" not in str(caught.value) and "weights_only" not in str(caught.value)


class Trap:
    """Unpickled, it writes a file: what any object in a .pth file could do."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_file_that_would_run_code_does_not(tmp_path):
    path = save(tmp_path / "weights.pth", {**blank_tensors("fid"), "trap": Trap(tmp_path / "sprung")})
    with pytest.raises(UserError, match="cannot be read as weights"):
        inception.load_inception(path)
    assert not (tmp_path / "sprung").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "sprung").exists()


def test_a_torchscript_file_is_refused_without_a_warning(tmp_path, recwarn):
    scripted = io.BytesIO()
    torch.jit.save(torch.jit.trace(torch.nn.ReLU(), torch.zeros(1)), scripted)
    recwarn.clear()
    (tmp_path / "inception-2015-12-05.pt").write_bytes(scripted.getvalue())
    with pytest.raises(UserError, match="cannot be read as weights"):
        inception.load_inception(tmp_path / "inception-2015-12-05.pt")
    assert not recwarn


@pytest.mark.parametrize("name", ["missing.pth", "."])
def test_a_missing_file_is_named(name, tmp_path):
    with pytest.raises(UserError, match="no such file"):
        inception.load_inception(tmp_path / name)


# Download


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A file in the role of the published FID weights, "downloaded" by a file:// address into an empty cache."""
    file = save(tmp_path / "weights.pth", blank_tensors("fid"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file = file.rename(tmp_path / f"weights-{digest[:8]}.pth")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(inception.PUBLISHED, "fid", inception.Published("inception", file.as_uri()))
    return file


def test_weights_are_downloaded_once_and_are_then_known_by_their_hash(source, tmp_path, capfd):
    network = inception.load_inception("fid")
    cached = tmp_path / "cache" / "hub" / "checkpoints" / source.name
    assert cached.read_bytes() == source.read_bytes()
    output = capfd.readouterr()
    assert source.as_uri() in output.err and output.out == ""
    source.unlink()
    again = inception.load_inception("fid")
    by_path = inception.load_inception(cached)
    assert network.name == again.name == by_path.name == "inception"
    assert network.settings == again.settings == by_path.settings
    assert "downloading" not in capfd.readouterr().err


def test_a_damaged_file_in_the_cache_is_refused(source, tmp_path):
    inception.load_inception("fid")
    cached = tmp_path / "cache" / "hub" / "checkpoints" / source.name
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged.*delete it"):
        inception.load_inception("fid")


def test_a_download_of_something_else_is_refused_and_leaves_nothing_behind(source, tmp_path):
    source.write_bytes(b"a page that says 404")
    with pytest.raises(UserError, match="cannot be downloaded"):
        inception.load_inception("fid")
    assert list((tmp_path / "cache" / "hub" / "checkpoints").iterdir()) == []


def test_without_a_network_one_line_says_what_to_do(tmp_path, monkeypatch):
    with socket.socket() as unused:  # bound, but nobody listens
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/weights-01234567.pth"
        monkeypatch.setenv("TORCH_HOME", str(tmp_path))
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setitem(inception.PUBLISHED, "imagenet", inception.Published("inception-imagenet", url))
        with pytest.raises(UserError) as caught:
            inception.load_inception("imagenet")
    message = str(caught.value)
    assert url in message and str(tmp_path / "hub" / "checkpoints") in message
    assert "--inception_weights PATH" in message and "\n" not in message
