"""Whatever bytes lie in a file: readers answer with their own errors, and the rules with the phrase.

The normal run tries the same few hundred inputs each time; HYPOTHESIS_EXAMPLES=20000 tries as many new ones per test.
"""

import io
import json
import os

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from utils.captions.enriched_file import EnrichedFile
from utils.captions.phrase import Target, has_phrase_once
from utils.captions.rules import enrich_by_rules
from utils.captions.rules.enrichment_rules import find_other_gesture
from utils.data.annotations import read_gesturing_boxes
from utils.data.folder_cache import Block, FolderCache
from utils.data.gestures import GESTURES
from utils.data.images import FORMATS, open_image, read_aligned, read_lines
from utils.method.checkpoint import CheckpointFolder
from utils.method.gesture_feature import load_feature
from utils.models.clip_tokens import load_token_counter
from utils.system.errors import UserError
from utils.system.files import read_json, read_rows

NUM_EXAMPLES = int(os.environ.get("HYPOTHESIS_EXAMPLES", 0))
settings.register_profile("fuzz", max_examples=NUM_EXAMPLES or 50, derandomize=not NUM_EXAMPLES, deadline=None,
                          database=None, suppress_health_check=list(HealthCheck))
settings.load_profile("fuzz")

WORDS = ["a man", "two girls", "giving", "gave", "the", "his", "peace", "sign", "thumbs up", "thumb", "fist", "ok",
         "finger", "three fingers", "hand", "with", "in a", "t-shirt", "poster", "waving", "phone", "(", ")", '"', "'",
         "“", ".", ",", "and", "making phone call hand gesture", "MAKING", "letter x", "shaped", "\u2028", "é",
         "日本", "🤙"]
CAPTIONS = st.lists(st.sampled_from(WORDS) | st.text(max_size=8), max_size=25).map(" ".join)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10)
    | st.sampled_from(["call", "no_gesture", [0.1, 0.2, 0.3, 0.4]]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(
        ["bboxes", "labels", "landmarks", "hand_landmarks", "user_id", "a", "line", "settings"]), inner),
    max_leaves=20)
COUNT_TOKENS, MAX_TOKENS = load_token_counter()


def own_error(function, *args):
    """What a function returns, None where it raises UserError; anything else that it raises fails the test."""
    try:
        return function(*args)
    except UserError as error:
        assert "\n" not in str(error).strip()
        return None


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


@given(data=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_lists(file, data):
    file.write_bytes(data)
    lines = own_error(read_lines, file)
    assert lines is None or (lines and all(line.strip() and "\0" not in line for line in lines))
    assert own_error(read_aligned, file, file) == (None if lines is None else (lines, lines))


@given(caption=CAPTIONS, name=st.sampled_from(list(GESTURES)))
def test_rules(caption, name):
    target = Target(GESTURES[name], GESTURES[name].phrase, COUNT_TOKENS, MAX_TOKENS)
    text, _ = enrich_by_rules(caption, target)
    assert has_phrase_once(text, target.phrase) and target.fits(text) and len(text.splitlines()) == 1
    assert find_other_gesture(text, target) is None
    assert enrich_by_rules(text, target)[0] == text


@given(value=JSON_VALUES | st.dictionaries(st.text(max_size=5), JSON_VALUES), cut=st.integers(0, 400))
def test_annotations_and_rows(file, value, cut):
    file.write_text(json.dumps(value)[:cut or None], encoding="utf-8")
    boxes = own_error(read_gesturing_boxes, file, "call")
    assert boxes is None or isinstance(boxes, dict)
    own_error(read_json, file)
    own_error(read_rows, file)


@given(lines=st.lists(JSON_VALUES.map(json.dumps) | st.text(max_size=20) | st.just(json.dumps({"settings": {}})),
                      max_size=4), is_cut=st.booleans())
def test_journals(file, lines, is_cut):
    folder = file.parent
    (folder / "BLIP2_captions.txt").write_text("a man\na hand\n")
    (folder / "BLIP2_enriched.jsonl").write_text("\n".join(lines) + "\n" * (not is_cut), encoding="utf-8",
                                                 errors="surrogatepass", newline="\n")
    phrase = GESTURES["call"].phrase
    journal = own_error(EnrichedFile, folder, "BLIP2", {"phrase": phrase})
    assert journal is None or all(has_phrase_once(row["enriched"], phrase) for row in journal.rows.values())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Folder of two checkpoints."""
    folder = tmp_path_factory.mktemp("checkpoints")
    for step in (1, 2):
        CheckpointFolder(folder).write(step, {"losses": {"a": torch.full((2,), float(step))}}, {"stage": "Stage II"})
    return folder


@given(state=JSON_VALUES | st.dictionaries(st.sampled_from(["step", "files", "pieces", "stage", "scaler", "digest"]),
                                           JSON_VALUES), cut=st.integers(0, 200))
def test_checkpoints(checkpoints, state, cut):
    path = checkpoints / "step-0000002" / "checkpoint.json"
    path.write_text(json.dumps(state)[:cut or None], encoding="utf-8")
    newest = CheckpointFolder(checkpoints, warn=lambda message: None).newest()
    assert newest.state["step"] == 1 and newest.load("losses")["a"].tolist() == [1, 1]  # the whole one before


@given(data=st.data(), name=st.sampled_from(FORMATS), mode=st.sampled_from(["RGB", "L"]))
def test_images(file, data, name, mode):
    stream = io.BytesIO()
    Image.linear_gradient("L").resize((12, 9)).convert(mode).save(stream, name)
    image = bytearray(stream.getvalue())
    for place in data.draw(st.lists(st.integers(0, len(image) - 1), max_size=8)):
        image[place] = data.draw(st.integers(0, 255))
    file.write_bytes(image[: data.draw(st.integers(0, len(image)))] if data.draw(st.booleans()) else image)
    opened = own_error(open_image, file)
    assert opened is None or (opened.mode == "RGB" and opened.size)


@given(data=st.binary(max_size=400), is_header=st.booleans(), shape=st.tuples(st.integers(0, 70)), kind=st.sampled_from(
    ["<f4", "<f8", "|O", "<i4", "|S3", "<c8", "|V8"]))
def test_features(file, data, is_header, shape, kind):
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    head = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()
    file.write_bytes(head + data if is_header else data)
    feature = own_error(load_feature, file)
    assert feature is None or feature.shape == (63,)


@given(data=st.binary(max_size=300), places=st.lists(st.tuples(st.integers(0, 10**4), st.integers(0, 255)), max_size=5))
def test_caches(file, data, places, capsys):
    file.write_bytes(b"x")
    cache = FolderCache(file.parent / "cache", "kind", [file], {})
    cache.add(0, Block({"a": np.arange(5.0)}))
    cache.write()
    written = bytearray(cache.file.read_bytes())
    for place, value in places:
        written[place % len(written)] = value
    cache.file.write_bytes(written if places else data)
    cache = FolderCache(file.parent / "cache", "kind", [file], {})
    cache.read()
    assert not cache.known or np.array_equal(cache.known[0].arrays["a"], np.arange(5.0))
