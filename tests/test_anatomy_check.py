"""utils/metrics/anatomy_check.py: its sets, when it says that a metric sees malformed hands, and a small run."""

import json

import numpy as np
import pytest

from utils.metrics import anatomy_check
from utils.metrics.anatomy_check import METRICS, SHARES, summarize
from utils.metrics.anatomy_sets import compose_set


@pytest.mark.parametrize("share", SHARES)
def test_sets_have_the_share_of_malformed_hands(share):
    chosen = compose_set(["sound"] * 20, ["malformed"] * 20, share)
    assert len(chosen) == 20 and chosen.count("malformed") == 20 * share


def test_a_metric_sees_what_moves_it_the_right_way_by_more_than_its_spread():
    noise = np.random.default_rng(0).normal(size=(5, len(SHARES)))
    rise = 100 * np.array(SHARES)
    found = {name: noise + sign * rise for name, sign in METRICS.items()}
    found["HAND-CONF"] = noise + rise  # the wrong way
    found["KID (synthetic)"] = noise * 1000 + rise  # lost in noise
    summary = summarize(found)
    assert summary["FID (synthetic)"]["monotone"] and summary["FID (synthetic)"]["smallest_seen"] == 0.1
    assert summary["detection rate"]["monotone"] and summary["detection rate"]["change_at_100_in_std"] > 50
    assert not summary["HAND-CONF"]["monotone"] and summary["HAND-CONF"]["smallest_seen"] is None
    assert summary["KID (synthetic)"]["smallest_seen"] is None


@pytest.mark.thorough
def test_a_small_run_sees_fully_malformed_palms_and_renders_once(tmp_path, run_script):
    command = ["-m", "utils.metrics.anatomy_check", "--gesture", "palm", "--num_images", 12, "--num_sets", 2,
               "--output_dir", tmp_path]
    result = run_script(command)
    assert result.returncode == 0, result.stderr
    fid = json.loads((tmp_path / "results.json").read_text())["palm"]["FID (synthetic)"]["mean"]
    assert fid[-1] > 2 * fid[0] > 0
    table = (tmp_path / "table.md").read_text()
    assert table in result.stdout and all(f"| {name} |" in table for name in METRICS)
    assert (tmp_path / "metric_check.png").read_bytes().startswith(b"\x89PNG")
    again = run_script(command)
    assert again.stdout == result.stdout and "rendering" not in again.stderr


def test_too_small_sets_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        anatomy_check.parse_args(["--num_images", "5", "--output_dir", str(tmp_path)])
    assert "--num_images 10" in capsys.readouterr().err
