"""python -m utils.results_table: rows of the metric scripts as one table."""

import pytest

from utils.metrics.results_table import collect_cells, format_table
from utils.system.errors import UserError
from utils.system.files import append_row, read_rows

HANDS = {"script": "hand_confidence.py", "num_images": 200, "num_skipped": 0, "num_without_hand": 12,
         "detection_rate": 0.94, "detection_rate_low": 0.905, "detection_rate_high": 0.97, "hand_conf": 0.9}
FID = {"script": "cal_fid.py", "features": "synthetic", "protocol": "clean", "num_real": 200, "num_fake": 199,
       "fid": 12.345, "fid_num_real": 200, "fid_num_fake": 199, "fid_unit": "images", "num_skipped": 1,
       "fid_h": 0.5, "fid_h_num_real": 198, "fid_h_num_fake": 120, "fid_h_unit": "hands"}
KID = {**{key.replace("fid", "kid"): value for key, value in FID.items()}, "script": "cal_kid.py"}


def lines_of(rows):
    return format_table(*collect_cells(rows))


def test_rows_of_one_folder_share_a_column():
    lines = lines_of([HANDS | {"name": "base"}, FID | {"name": "base"}, FID | {"name": "tuned", "fid": 3.0}])
    assert lines[0].split() == ["base", "tuned"]
    found = {" ".join(line.split()) for line in lines}
    assert "detection rate 0.9400 [0.9050, 0.9700] -" in found
    assert "FID (synthetic) 12.35 3.00" in found  # Python rounds 12.345 up in binary
    assert "hands compared (synthetic) 198 and 120 198 and 120" in found
    assert "images skipped 0 -" in found  # those of the folder itself, not those of a comparison


def test_columns_start_at_the_same_place():
    lines = lines_of([HANDS | {"name": "a"}, HANDS | {"name": "b", "detection_rate_low": None}])
    places = {line.index("0.9000") for line in lines if "HAND-CONF" in line}
    assert places == {lines[0].index("a")}


def test_other_features_and_protocols_get_lines_of_their_own():
    lines = lines_of([FID | {"name": "x"}, FID | {"name": "x", "features": "landmarks", "fid_h": 7},
                      FID | {"name": "x", "features": "inception", "protocol": "hand1000"}])
    headings = [line.split("  ")[0] for line in lines[1:] if line.startswith("FID-H")]
    assert headings == ["FID-H (synthetic)", "FID-H (landmarks)",
                        "FID-H (inception, hand1000 protocol)"]


def test_what_a_distance_rests_on_is_said_once_and_again_where_it_differs():
    alike = lines_of([FID | {"name": "x"}, KID | {"name": "x"}])
    assert sum("compared" in line for line in alike) == 2
    fewer = lines_of([FID | {"name": "x"}, KID | {"name": "x", "kid_h_num_real": 197, "kid_num_fake": 199}])
    found = [" ".join(line.split()) for line in fewer]
    assert found[-2:] == ["hands compared (synthetic), KID-H 197 and 120", "KID-H (synthetic) 0.5000"]
    assert "hands compared (synthetic) 198 and 120" in found
    boxes = lines_of([FID | {"name": "x", "fid_h_unit": "hand boxes"}, KID | {"name": "x"}])
    assert sum("hand boxes compared" in line for line in boxes) == sum("hands compared" in line for line in boxes) == 1


def test_a_number_that_could_not_be_had_is_no_line():
    assert not any("FID-H" in line for line in lines_of([FID | {"name": "x", "fid_h": None}]))


def test_the_later_of_two_rows_counts():
    assert any(line.endswith(" 9.00") for line in lines_of([FID | {"name": "x"}, FID | {"name": "x", "fid": 9.0}]))


def test_the_module_prints_what_was_appended(tmp_path, run_script):
    path = tmp_path / "results.jsonl"
    append_row(path, HANDS | {"name": "tuned"})
    result = run_script(["-m", "utils.results_table", path])
    assert (result.returncode, result.stderr) == (0, "") and "tuned" in result.stdout.splitlines()[0]


def test_hands_of_different_detectors_are_told_of(tmp_path, run_script):
    path = tmp_path / "results.jsonl"
    for detector in ("litert 1", "litert 1"):
        append_row(path, HANDS | {"name": "tuned", "detector": detector})
    assert run_script(["-m", "utils.results_table", path]).stderr == ""
    append_row(path, HANDS | {"name": "base"})  # as earlier versions wrote it
    errors = run_script(["-m", "utils.results_table", path]).stderr
    assert errors.startswith(f"warning: {path}: hands were found by different detectors (litert 1, unknown); ")


@pytest.mark.parametrize("change", [lambda data: b"\xef\xbb\xbf" + data, lambda data: data.replace(b"\n", b"\r\n"),
                                    lambda data: data.removesuffix(b"\n")], ids=["BOM", "CRLF", "no last newline"])
def test_rows_that_went_through_another_system_are_read(tmp_path, change):
    path = tmp_path / "results.jsonl"
    append_row(path, HANDS)
    append_row(path, FID)
    path.write_bytes(change(path.read_bytes()))
    assert read_rows(path) == [HANDS, FID]


@pytest.mark.parametrize(("content", "line"), [(b'{"a": 1}\n{"a"', 2), (b"[1]\n", 1), (b"\xff\xfe\n", 1)])
def test_a_damaged_row_is_named_with_its_line(tmp_path, content, line):
    path = tmp_path / "results.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"results\.jsonl, line {line}: "):
        read_rows(path)


def test_a_file_without_rows_is_refused(tmp_path):
    path = tmp_path / "results.jsonl"
    path.touch()
    with pytest.raises(UserError, match="no rows"):
        read_rows(path)
