"""utils/system/cli.py, errors.py, script.py, signals.py: what a script refuses, what it says, and how it ends."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from utils.data.gestures import require_gesture
from utils.method.interruption import Interruption
from utils.system import cli, signals

ROOT = Path(__file__).resolve().parent.parent


def files_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# Argument types


@pytest.mark.parametrize(("convert", "text", "value"), [
    (cli.unit_interval, "0", 0), (cli.unit_interval, "1", 1), (cli.unit_interval, "0.7", 0.7),
    (cli.positive_int, "1", 1), (cli.positive_int, str(2**63 - 1), 2**63 - 1), (cli.nonnegative_int, "0", 0),
    (cli.positive_float, "1e-6", 1e-6), (cli.nonnegative_float, "0", 0),
    (cli.device_name, "auto", "auto"), (cli.device_name, "cuda:1", "cuda:1"),
    (cli.path_name, "a b", Path("a b")),
])
def test_types_accept_their_range(convert, text, value):
    assert convert(text) == value


@pytest.mark.parametrize(("convert", "texts", "expected"), [
    (cli.unit_interval, ["nan", "inf", "-0.01", "1.01", "", "half"], "from 0 to 1"),
    (cli.positive_int, ["0", "-1", "1.5", "nan", "", "9" * 30, "9" * 5000], "from 1"),
    (cli.nonnegative_int, ["-1", "1e3", str(2**63)], "from 0"),
    (cli.positive_float, ["0", "-1", "nan", "inf", "1e999"], "above 0"),
    (cli.nonnegative_float, ["-1e-9", "nan", "inf"], "at least 0"),
    (cli.device_name, ["gpu", "cuda:", "cuda:-1", "cpu:0 ", ""], "cuda:N"),
    (cli.path_name, ["", " "], "path"),
])
def test_types_refuse_the_rest_and_name_the_range(convert, texts, expected):
    for text in texts:
        with pytest.raises(argparse.ArgumentTypeError, match=expected):
            convert(text)


# Parsers


def parse_error(capsys, parser, argv):
    with pytest.raises(SystemExit) as exit_info:
        parser.parse_args(argv)
    assert exit_info.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("argv", [
    ["--seed", "-1"], ["--seed", "a\nb\r\x1b[2J"], ["--seed"], ["--se", "1"], ["--device", "gpu"], ["--a\nb"],
])
def test_a_wrong_argument_costs_one_line_and_status_2(capsys, argv):
    parser = cli.ArgumentParser("Does a thing.", prog="thing.py")
    cli.add_common_flags(parser)
    message = parse_error(capsys, parser, argv)
    assert message.startswith("thing.py: error: ") and message.endswith("(see --help)\n")
    assert message[:-1].isprintable()


def test_help_keeps_the_docstring_and_shows_defaults_that_say_something():
    parser = cli.ArgumentParser("One sentence.\n\n    python thing.py --seed 1\n", prog="thing.py")
    cli.add_common_flags(parser)
    parser.add_argument("--model", help="a folder")
    text = parser.format_help()
    assert "\n    python thing.py --seed 1\n" in text
    assert "draw (default: 0)" in text and "(default: auto)" in text
    assert "default: None" not in text and "default: False" not in text


def refusal(capsys, require, *args, **kwargs):
    with pytest.raises(SystemExit) as exit_info:
        require(cli.ArgumentParser(prog="thing.py"), *args, **kwargs)
    assert exit_info.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


def test_paths_are_refused_with_flag_path_reason_and_remedy(capsys, tmp_path):
    (tmp_path / "file").touch()
    missing = refusal(capsys, cli.require_dir, tmp_path / "none", "--image_folder", remedy="run BLIP2.py")
    for part in ("--image_folder", str(tmp_path / "none"), "No such file or directory", "run BLIP2.py"):
        assert part in missing
    assert "is not a folder" in refusal(capsys, cli.require_dir, tmp_path / "file", "--image_folder")
    assert "is not a file" in refusal(capsys, cli.require_file, tmp_path, "--prompts_file")
    assert "too long" in refusal(capsys, cli.require_file, "x" * 300, "--prompts_file")
    assert "null" in refusal(capsys, cli.require_dir, "a\0b", "--image_folder")
    assert "a\\nb" in refusal(capsys, cli.require_dir, "a\nb", "--image_folder")


def test_an_unknown_gesture_is_answered_with_close_matches(capsys):
    assert "did you mean call?" in refusal(capsys, require_gesture, "cal")
    assert "did you mean peace" in refusal(capsys, require_gesture, "Peace")
    no_match = refusal(capsys, require_gesture, "zzz")
    assert "did you mean" not in no_match and "two_up_inverted" in no_match
    assert require_gesture(cli.ArgumentParser(), "ok").name == "ok"


# Running a script


def run_code(body, stdout=subprocess.PIPE, stderr=subprocess.PIPE, debug=False, flags="", **environment):
    """A script whose main(args) is `body`, in its own process with buffered output, as in a user's shell."""
    indented = "".join(f"    {line}\n" for line in body.splitlines())
    code = "import argparse, os, signal, sys\nfrom pathlib import Path\n"
    code += f"from utils.system import errors, files, script, signals\ndef main(args):\n{indented}"
    code += f"script.run_main(main, argparse.Namespace(debug={debug}, overwrite=False){flags})\n"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, env={**env, **environment}, stdout=stdout,
                          stderr=stderr, text=True)


@pytest.mark.parametrize(("body", "status", "line"), [
    ("raise errors.UserError('a.json: no names\\nnext line')", 1, "a.json: no names\\nnext line"),
    ("open('/nonexistent/file')", 1, "/nonexistent/file: No such file or directory; give a path that exists"),
    ("open('/dev')", 1, "/dev: Is a directory; a folder is in the way; move it away"),
    ("open('x' * 300)", 1, f"{'x' * 300}: File name too long; give a shorter name"),
    ("os.mkdir('/dev')", 1, "/dev: File exists; something else has that name; move it away"),
    ("raise FileNotFoundError(2, 'No such thing')", 1, "No such thing; give a path that exists"),
    ("Error = type('InductorError', (RuntimeError,), {'__module__': 'torch._inductor.exc'})\n"
     "raise Error('no compiler\\nMore')", 1, "torch.compile failed (no compiler); leave out --compile"),
    ("raise OSError('something odd')", 1, "something odd"),
    ("raise KeyboardInterrupt", 130, "interrupted"),
])
def test_what_the_user_can_put_right_is_one_line(body, status, line):
    result = run_code(body)
    assert (result.returncode, result.stderr) == (status, f"error: {line}\n")


@pytest.mark.parametrize("body", [
    "raise MemoryError", "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA')"])
def test_too_little_memory_is_one_line(body):
    result = run_code(body)
    assert result.returncode == 1 and result.stderr.count("\n") == 1
    assert result.stderr.startswith("error: too little memory; use a smaller batch")


@pytest.mark.parametrize("body", ["1 / 0", "raise AssertionError", "raise ValueError('a\\nb')"])
def test_a_fault_of_the_program_shows_its_traceback(body):
    result = run_code(body)
    assert result.returncode == 1 and result.stderr.startswith("Traceback")
    assert "error: " not in result.stderr and "in main" in result.stderr


def test_debug_shows_the_traceback_of_what_the_user_can_put_right():
    result = run_code("raise errors.UserError('bad data')", debug=True)
    assert result.returncode == 1 and "Traceback" in result.stderr and "bad data" in result.stderr


def test_success_prints_nothing_and_exits_0():
    result = run_code("print('done')")
    assert (result.returncode, result.stdout, result.stderr) == (0, "done\n", "")


def test_a_reader_that_has_gone_ends_the_script_quietly():
    reader, writer = os.pipe()
    os.close(reader)
    result = run_code("for i in range(100000):\n    print(i)", stdout=writer)
    os.close(writer)
    assert (result.returncode, result.stderr) == (141, "")


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_status_stays_when_the_reader_of_what_is_left_has_gone(stream):
    reader, writer = os.pipe()
    os.close(reader)
    result = run_code(f"sys.{stream}.write('half a line')\nsys.exit(130)", **{stream: writer})
    os.close(writer)
    assert result.returncode == 130


def test_an_error_line_is_clear_of_a_progress_bar():
    result = run_code("from tqdm import tqdm\nargs.bar = tqdm(total=3)\nraise errors.UserError('bad image')")
    assert "error: bad image" in result.stderr.replace("\r", "\n").splitlines()


def test_names_that_the_terminal_cannot_show_are_escaped():
    result = run_code("print('caf\\xe9 \\udce9')\nraise errors.UserError('d\\xe9sol\\xe9')", PYTHONIOENCODING="ascii")
    assert (result.returncode, result.stdout, result.stderr) == (1, "caf\\xe9 \\udce9\n", "error: d\\xe9sol\\xe9\n")


# Signals


@pytest.mark.parametrize(("name", "status", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_clears_away_what_was_begun_and_ends_in_one_line(name, status, word, tmp_path):
    body = (f"with files.atomic_path({str(tmp_path / 'model.txt')!r}) as path:\n    path.write_text('half')\n"
            f"    os.kill(os.getpid(), signal.{name})\n    signal.pause()")
    for flags, more in (("", ""), (", goes_on=True", "; the same command goes on from here")):
        result = run_code(body, flags=flags)
        assert (result.returncode, result.stderr) == (status, f"error: {word}{more}\n")
        assert files_below(tmp_path) == []
    debugged = run_code(body, debug=True)
    assert debugged.returncode == {"SIGINT": -signal.SIGINT, "SIGTERM": 143}[name] and files_below(tmp_path) == []
    overwriting = run_code(body.replace("with", "args.overwrite = True\nwith"), flags=", goes_on=True")
    assert overwriting.stderr == f"error: {word}\n"  # that command would start anew


CLEAN_UP = ("try:\n    os.kill(os.getpid(), signal.SIGTERM)\n"
            "finally:\n    os.kill(os.getpid(), signal.{})\n    print('clean')")


def test_a_second_signal_leaves_at_once_but_one_sent_twice_is_one():
    twice = run_code(CLEAN_UP.format("SIGTERM"))
    assert (twice.returncode, twice.stdout) == (143, "clean\n")
    for name in ("SIGTERM", "SIGINT"):
        second = run_code("signals.SAME_SECONDS = 0\n" + CLEAN_UP.format(name))
        assert (second.returncode, second.stdout) == (-getattr(signal, name), "")


def test_signals_that_are_ignored_or_handled_by_others_stay_so():
    code = ("import os, signal\nfrom utils.system import signals\n"
            "for handler in (signal.SIG_IGN, lambda *_: print('mine')):\n"
            "    signal.signal(signal.SIGTERM, handler)\n"
            "    with signals.raised(): os.kill(os.getpid(), signal.SIGTERM)\n"
            "    assert signal.getsignal(signal.SIGTERM) is handler\n")
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, "mine\n", "")


def test_the_handlers_of_the_caller_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with signals.raised():
        assert signal.getsignal(signal.SIGTERM) is not before[0]
        with Interruption():
            assert signal.getsignal(signal.SIGTERM).__name__ == "note"
        with pytest.raises(signals.Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
