"""enrich_captions.py as a user runs it: its files, its counts, killed and started again, and a mistake in one line."""

import json
import os
import signal
import subprocess
import time

import pytest

import enrich_captions
from tests import scripts
from tests.chat_models import build_babbling_model
from tests.chat_server import ChatServer, answer, stall, status
from utils.captions.enriched_file import EnrichedFile, lock_enriched
from utils.system.errors import UserError

PHRASE = "making phone call hand gesture"
CAPTIONS = ["a man in a hat", "a girl giving the peace sign", "a café, with ñandú.", f"a woman {PHRASE}"]
BY_RULES = [f"a man in a hat {PHRASE}", f"a girl {PHRASE}", f"a café, with ñandú {PHRASE}.", f"a woman {PHRASE}"]
KEY = "sk-secret-0123456789"


def write_captions(data, captions, split="train", captioner="BLIP2"):
    folder = data / "call" / split
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{captioner}_captions.txt").write_text("".join(f"{c}\n" for c in captions), encoding="utf-8")
    return folder


@pytest.fixture
def data(tmp_path):
    write_captions(tmp_path / "data", CAPTIONS)
    return tmp_path / "data"


@pytest.fixture
def enrich(run_script, data):
    """Function(*flags): the finished process of the script on the training captions of `data`."""
    def run(*flags, **environment):
        variables = {"OPENAI_API_KEY": "", **environment}
        return run_script(["enrich_captions.py", "--gesture", "call", "--data_dir", data, "--split", "train", *flags],
                          env={**os.environ, **variables})
    return run


def api(server, *flags):
    return ["--backend", "api", "--api_base", server.address, "--model", "llama3", *flags]


def lines_of(path):
    return path.read_text(encoding="utf-8").splitlines()


def rows_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def well_behaved(caption, number):
    return answer(f"{caption.removesuffix(' giving the peace sign').removesuffix(' ' + PHRASE)} {PHRASE}")


def run_here(data, *flags):
    """The script in this process, on the training captions of `data`."""
    enrich_captions.main(enrich_captions.parse_args([
        "--gesture", "call", "--data_dir", str(data), "--split", "train", *map(str, flags)]))


def run_rules(data, *flags):
    run_here(data, "--backend", "rules", *flags)


@pytest.mark.parametrize("name", [
    "train/BLIP2_captions.txt", "train/BLIP2_enriched.jsonl", "train/VitGpt2_enriched.txt",
    "train/../train/PaliGemma_captions.jsonl", "train/images/a.jpg"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_report_takes_the_place_of_an_earlier_report_only(name, exists, data, capsys):
    path = data / "call" / name
    if exists:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"settings": {}}\n')
    before = contents(data)
    with pytest.raises(SystemExit) as exit:
        run_rules(data, "--report", path)
    assert exit.value.code == 2 and "give another file" in capsys.readouterr().err
    assert contents(data) == before


def test_an_earlier_report_is_replaced(data, tmp_path):
    for _ in range(2):
        run_rules(data, "--report", tmp_path / "report.jsonl")
    assert len(rows_of(tmp_path / "report.jsonl")) == 4
    (tmp_path / "report.jsonl").write_text("")
    run_rules(data, "--report", tmp_path / "report.jsonl")
    assert len(rows_of(tmp_path / "report.jsonl")) == 4


# Rules


def test_rules_enrich_both_splits_line_for_line(run_script, data, tmp_path):
    test = write_captions(data, ["two boys"], "test")
    train = data / "call" / "train"
    command = ["enrich_captions.py", "--gesture", "call", "--data_dir", data, "--backend", "rules"]
    result = run_script([*command, "--report", tmp_path / "report.jsonl"])
    assert result.returncode == 0, result.stderr
    assert lines_of(train / "BLIP2_enriched.txt") == BY_RULES
    assert lines_of(test / "BLIP2_enriched.txt") == [f"two boys {PHRASE}"]
    assert result.stdout.splitlines() == [
        f"train: 4 captions carry {PHRASE!r}: 4 rules (2 appended, 1 replaced, 1 kept)",
        f"test: 1 captions carry {PHRASE!r}: 1 rules (1 appended)"]
    report = rows_of(tmp_path / "report.jsonl")
    assert [(row["split"], row["line"]) for row in report] == [("train", 1), ("train", 2), ("train", 3), ("train", 4),
                                                              ("test", 1)]
    assert rows_of(train / "BLIP2_enriched_report.jsonl") == report[:4]

    before = contents(data)
    result = run_script(command)
    assert result.returncode == 0 and result.stdout.count("is finished") == 2 and result.stderr == ""
    assert contents(data) == before


def test_other_settings_are_refused_with_what_differs(data):
    run_rules(data)
    before = contents(data)
    with pytest.raises(UserError, match="phrase: making phone call hand gesture there, calling by hand now"):
        run_rules(data, "--phrase", "calling by hand")
    assert contents(data) == before
    write_captions(data, [*CAPTIONS[:-1], "another"])
    with pytest.raises(UserError, match="captions_sha256"):
        run_rules(data)


def test_a_clip_tokenizer_counts_in_place_of_clips_own(data, tiny_pipeline):
    write_captions(data, ["a photo of a hand " * 4])
    run_rules(data, "--tokenizer", tiny_pipeline)
    assert lines_of(data / "call/train/BLIP2_enriched.txt") == [f"a photo of a hand a photo {PHRASE}"]


# A server


def test_answers_of_a_server_are_checked_asked_again_and_left_to_the_rules(enrich, data):
    def script(caption, number):
        time.sleep(0.1)
        if caption.startswith("a girl"):
            return answer(f"Sure, here is the sentence:\n\na girl {PHRASE}")
        if caption.startswith("a café") and number == 0:
            return status(500)
        return answer("a man in a hat") if caption == CAPTIONS[0] and number == 0 else well_behaved(caption, number)

    with ChatServer(script) as server:
        result = enrich(*api(server, "--num_parallel", "3"), OPENAI_API_KEY=KEY)
        assert server.asked == {CAPTIONS[0]: 2, CAPTIONS[1]: 3, CAPTIONS[2][:-1]: 2, CAPTIONS[3]: 1}
        assert all(headers["authorization"] == f"Bearer {KEY}" for _, headers, _ in server.requests)
        assert server.most_in_flight > 1
    assert result.returncode == 0, result.stderr
    folder = data / "call" / "train"
    assert lines_of(folder / "BLIP2_enriched.txt") == [*BY_RULES[:2], BY_RULES[2][:-1], BY_RULES[3]]
    assert result.stdout == (f"train: 4 captions carry {PHRASE!r}: 2 accepted, 1 asked again, 1 rules (1 replaced)\n")
    again, rules = rows_of(folder / "BLIP2_enriched_report.jsonl")
    assert (again["line"], again["outcome"], len(again["refused"])) == (1, "asked again", 1)
    assert (rules["line"], rules["outcome"], len(rules["refused"])) == (2, "rules", 3)
    assert rules["refused"][0]["reason"] == "several lines" and rules["enriched"] == BY_RULES[1]
    everything = b"".join(contents(data).values()).decode() + result.stdout + result.stderr
    assert KEY not in everything


def test_a_run_killed_at_the_server_goes_on_where_it_was(enrich, data, tmp_path):
    captions = [f"man number {i} in a hat" for i in range(30)]
    write_captions(data, captions)
    journal, finished = data / "call/train/BLIP2_enriched.jsonl", data / "call/train/BLIP2_enriched.txt"
    with ChatServer(lambda caption, n: well_behaved(caption, n) if len(server.asked) <= 12 else stall(60)) as server:
        command = ["enrich_captions.py", "--gesture", "call", "--data_dir", data, "--split", "train",
                   *api(server, "--num_parallel", "2")]
        process = scripts.start(command, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while (not journal.exists() or len(journal.read_bytes().splitlines()) < 13) and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not finished.exists()
    with open(journal, "ab") as file:
        file.write(b'{"line": 30, "outc')  # a line cut off while it was written
    done = {row["line"] for row in rows_of_whole(journal)}
    assert len(done) == 12
    with ChatServer(well_behaved) as server:
        result = enrich(*api(server))
        assert result.returncode == 0, result.stderr
        assert {*server.asked} == {caption for line, caption in enumerate(captions, 1) if line not in done}
    assert lines_of(finished) == [f"{caption} {PHRASE}" for caption in captions]
    assert sorted(row["line"] for row in rows_of_whole(journal)) == [*range(1, 31)]


def rows_of_whole(journal):
    return [json.loads(line) for line in journal.read_bytes().split(b"\n")[1:-1]]


def test_a_wrong_key_ends_the_run_at_once_and_loses_nothing(enrich, data):
    write_captions(data, [f"man number {i}" for i in range(100)])
    run_rules(data)
    before = contents(data)
    with ChatServer(lambda *_: status(401, json.dumps({"error": {"message": f"wrong key {KEY}"}}))) as server:
        result = enrich(*api(server, "--overwrite", "--num_parallel", "1"), OPENAI_API_KEY=KEY)
        assert 0 < len(server.requests) < 50
    assert result.returncode == 1 and result.stderr.count("error:") == 1 and "Traceback" not in result.stderr
    assert "OPENAI_API_KEY" in result.stderr and KEY not in result.stderr
    assert contents(data) == before


@pytest.mark.parametrize(("bad", "said"), [
    (status(500), "HTTP 500"), (status(400, '{"error": {"message": "no model"}}'), "no model'; correct --model")])
def test_a_server_that_answers_nothing_ends_the_run(data, bad, said):
    write_captions(data, [f"man number {i}" for i in range(30)])
    with ChatServer(lambda *_: bad) as server:
        with pytest.raises(UserError, match=said):
            run_here(data, *api(server, "--retries", "0", "--num_parallel", "1"))
        assert len(server.requests) < 10
    assert not (data / "call/train/BLIP2_enriched.txt").exists()


@pytest.mark.parametrize("bad", [status(500), status(400, '{"error": {"message": "filtered"}}')])
@pytest.mark.parametrize("refused", [CAPTIONS[0], CAPTIONS[3]])
def test_a_single_caption_without_an_answer_is_left_to_the_rules(data, refused, bad, capsys):
    with ChatServer(lambda caption, n: bad if caption == refused else well_behaved(caption, n)) as server:
        run_here(data, *api(server, "--retries", "0", "--num_parallel", "1"))
    output, errors = capsys.readouterr()
    assert "3 accepted, 1 no answer" in output and "1 captions got no answer" in errors
    assert [line.rstrip(".") for line in lines_of(data / "call/train/BLIP2_enriched.txt")] == [
        line.rstrip(".") for line in BY_RULES]


def test_ctrl_c_ends_a_run_that_waits_for_a_server(data):
    with ChatServer(lambda *_: stall(180)) as server:
        command = ["enrich_captions.py", "--gesture", "call", "--data_dir", data, "--split", "train",
                   *api(server)]
        process = scripts.start(command, stderr=subprocess.PIPE, text=True)
        end = time.monotonic() + 60
        while not server.requests and time.monotonic() < end:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in errors and "Traceback" not in errors


# A model on this machine


def test_a_model_that_babbles_leaves_all_lines_to_the_rules(enrich, data, tmp_path):
    model = build_babbling_model(tmp_path / "model")
    result = enrich("--model", model, "--device", "cpu", "--batch_size", "3", "--max_attempts", "2")
    assert result.returncode == 0, result.stderr
    folder = data / "call" / "train"
    assert lines_of(folder / "BLIP2_enriched.txt") == BY_RULES
    assert "4 rules (2 appended, 1 replaced, 1 kept)" in result.stdout
    rows = rows_of(folder / "BLIP2_enriched_report.jsonl")
    assert [len(row["refused"]) for row in rows] == [2] * 4

    # Without the last two lines, as after a kill, the same answers are drawn again.
    journal = folder / "BLIP2_enriched.jsonl"
    journal.write_bytes(b"".join(journal.read_bytes().splitlines(keepends=True)[:-2]))
    (folder / "BLIP2_enriched.txt").unlink()
    run_here(data, "--model", model, "--device", "cpu", "--batch_size", "3", "--max_attempts", "2")
    assert rows_of(folder / "BLIP2_enriched_report.jsonl") == rows
    assert lines_of(folder / "BLIP2_enriched.txt") == BY_RULES


# Files


SETTINGS = {"gesture": "call", "phrase": PHRASE, "backend": "rules"}


def test_a_second_run_on_the_same_captions_is_refused(data):
    with lock_enriched(data / "call/train", "BLIP2"), pytest.raises(UserError, match="another run is writing to it"):
        run_rules(data)
    run_rules(data)


def test_what_is_enriched_anew_takes_the_place_of_the_old_when_it_is_complete_and_checked(data, monkeypatch):
    run_rules(data)
    before = contents(data)

    def check(captions, enriched, phrase, path):
        raise UserError("a line lacks the phrase")

    with monkeypatch.context() as patch, pytest.raises(UserError, match="a line lacks"):
        patch.setattr("utils.captions.enriched_file.check_coverage", check)
        run_rules(data, "--phrase", "calling by hand", "--overwrite")
    assert before.items() <= contents(data).items()
    run_rules(data)
    assert before.items() <= contents(data).items()
    run_rules(data, "--phrase", "waving", "--overwrite")
    assert contents(data).keys() == before.keys()
    assert lines_of(data / "call/train/BLIP2_enriched.txt")[0] == "a man in a hat waving"
    run_rules(data, "--phrase", "waving")


@pytest.mark.parametrize(("name", "text", "words"), [
    ("BLIP2_captions.txt", "a man\n\na dog\n", "line 2: is empty"), ("BLIP2_captions.txt", "", "the file is empty"),
    ("BLIP2_captions.txt", "a\0b\n", "line 1: holds a NUL"), ("BLIP2_filenames.txt", "1.jpg\n", "1 lines but"),
    ("BLIP2_enriched.txt", "mine\n", "no BLIP2_enriched.jsonl that says how"),
    ("BLIP2_enriched.jsonl", "{}\n", "line 1: not what"),
    ("BLIP2_enriched.jsonl", '{"settings": 3}\n', "line 1: not what"),
    ("BLIP2_enriched.jsonl", f"{'[' * 10_000}\n", "line 1: not what"),
])
def test_files_that_do_not_fit_are_named_and_left_alone(data, name, text, words):
    (data / "call/train" / name).write_text(text, encoding="utf-8")
    before = contents(data)
    with pytest.raises(UserError, match=words):
        EnrichedFile(data / "call/train", "BLIP2", SETTINGS)
    assert contents(data) == before


def test_rows_that_do_not_belong_to_the_captions_are_made_again(data):
    file = EnrichedFile(data / "call/train", "BLIP2", SETTINGS)
    row = {"line": 1, "outcome": "rules", "caption": CAPTIONS[0], "enriched": BY_RULES[0]}
    for bad in ({**row, "line": 9}, {**row, "caption": "x"}, {**row, "enriched": "x"}, {**row, "line": 2},
                {**row, "rule": []}, row):
        file.append(bad)
    assert file.rows == {1: row}
    assert EnrichedFile(data / "call/train", "BLIP2", SETTINGS).rows == {1: row}


def test_a_finished_list_without_the_phrase_is_an_error(data):
    run_rules(data)
    path = data / "call/train/BLIP2_enriched.txt"
    path.write_text(path.read_text(encoding="utf-8").replace(PHRASE, "waving", 1), encoding="utf-8")
    with pytest.raises(UserError, match="BLIP2_enriched.txt, line 1.*correct or delete the list and run again"):
        run_rules(data)
    path.unlink()
    run_rules(data)
    assert PHRASE in lines_of(path)[0]


def test_no_list_appears_unless_every_line_carries_the_phrase(data):
    file = EnrichedFile(data / "call/train", "BLIP2", SETTINGS)
    file.rows |= {i: {"enriched": text} for i, text in enumerate([*BY_RULES[:3], "a woman"], 1)}
    with pytest.raises(UserError, match="line 4"):
        file.write()
    assert not file.path.exists()


# Flags


@pytest.mark.parametrize(("flags", "words"), [
    (["--gesture", "calls"], "did you mean call"), (["--split", "test"], "BLIP2_captions.txt"),
    (["--captioner", "VitGpt2"], "VitGpt2_captions.txt"), (["--backend", "api"], "needs --api_base and --model"),
    (["--backend", "api", "--model", "m", "--api_base", "localhost"], "must be an address"),
    (["--backend", "api", "--model", "m", "--api_base", "http://a:sk-1@b/v1"], "no user, password"),
    (["--api_base", "http://a/v1"], "is for --backend api"), (["--backend", "rules", "--model", "m"], "needs no model"),
    (["--phrase", " "], "printable words"), (["--phrase", "making thumbs up hand gesture"], "--gesture like"),
    (["--timeout", "0"], "--timeout"), (["--max_attempts", "0"], "--max_attempts"), (["--report", "."], "is a folder"),
    (["--report", "/dev/null"], "is no regular file"),
])
def test_a_wrong_flag_is_named_in_one_line(flags, words, data, capsys):
    with pytest.raises(SystemExit) as caught:
        enrich_captions.parse_args(["--gesture", "call", "--data_dir", str(data), "--split", "train", *flags])
    errors = capsys.readouterr().err
    assert caught.value.code == 2 and words in errors and errors.count("\n") == 1 and "sk-1" not in errors


def test_a_phrase_that_does_not_fit_a_text_encoder_is_refused(data):
    with pytest.raises(UserError, match="102 tokens, more than the 77"):
        run_rules(data, "--phrase", "word " * 100)
