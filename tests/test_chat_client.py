"""The client of a chat server, against a real one on loopback that does what servers do."""

import email.utils
import json
import random
import threading
import time

import pytest

from tests.chat_server import (
    ChatServer,
    answer,
    cut_off,
    drip,
    flood,
    reset,
    stall,
    status,
    stream,
    truncated,
)
from utils.captions.enrichment import build_prompt
from utils.models import chat_client
from utils.models.chat_client import ChatClient, parse_address, parse_retry_after
from utils.models.questions import Answer, NoAnswerError, Question
from utils.system.errors import UserError

PHRASE = "making phone call hand gesture"
QUESTION = Question(build_prompt("a man", PHRASE), seed=7, is_greedy=True)
GOOD = f"a man {PHRASE}"
KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(chat_client, "FIRST_WAIT", 0.02)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(script, question=QUESTION, timeout=5.0, retries=2):
    """(answer, requests that the server got); errors are raised with the number as their `requests`."""
    with ChatServer(script) as server:
        try:
            return ChatClient(server.address, "llama3", timeout, retries).ask([question])[0], server.requests
        except (UserError, NoAnswerError) as error:
            error.requests = server.requests
            raise


# What is sent


def test_the_first_question_is_greedy_and_a_repeat_brings_its_seed():
    found, [(path, headers, body)] = ask(lambda *_: answer(GOOD))
    assert found == Answer(GOOD) and path == "/v1/chat/completions"
    assert (body["model"], body["stream"], body["temperature"], body["seed"]) == ("llama3", False, 0, 7)
    assert body["messages"] == [{"role": "user", "content": QUESTION.prompt}]
    assert "Authorization" not in headers
    _, [(_, _, body)] = ask(lambda *_: answer(GOOD), Question(QUESTION.prompt, 8, is_greedy=False))
    assert body["temperature"] > 0 and body["seed"] == 8


def test_the_key_is_sent_and_appears_in_no_message(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    found, [(_, headers, _)] = ask(lambda *_: answer(f"{GOOD} {KEY}"))
    assert headers["authorization"] == f"Bearer {KEY}" and KEY not in found.text
    for code in (401, 403, 404, 418, 500):
        with pytest.raises((UserError, NoAnswerError)) as caught:
            ask(lambda *_: status(code, json.dumps({"error": {"message": f"bad key {KEY}"}})), retries=0)  # noqa: B023
        assert f"HTTP {code}" in str(caught.value) and "bad key ***" in str(caught.value)
        assert KEY not in str(caught.value)


def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(monkeypatch):
    for key in ("sk-a b", "sk-\u00e9", "sk-a\nb"):
        monkeypatch.setenv("OPENAI_API_KEY", key)
        with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
            ChatClient("http://localhost/v1", "m", 1, 0)
        assert key not in str(caught.value)


# Good answers in other shapes


def test_a_server_that_streams_is_read_like_one_that_does_not():
    assert ask(lambda *_: stream(GOOD))[0] == Answer(GOOD)


def test_an_answer_cut_at_the_longest_length_is_told_apart():
    assert not ask(lambda *_: answer("a man and", "length"))[0].is_whole


@pytest.mark.parametrize(("content", "text"), [
    ([{"type": "text", "text": "a "}, {"type": "text", "text": "b"}], "a b"), (None, ""), ("", "")])
def test_content_may_be_parts_or_nothing(content, text):
    body = json.dumps({"choices": [{"message": {"content": content}}]})
    assert ask(lambda *_: status(200, body))[0].text == text


# What goes well when it is tried again


@pytest.mark.parametrize("bad", [
    status(500), status(503, "<html>"), status(529), status(408), status(429), truncated(GOOD), cut_off(GOOD),
    stream(GOOD, is_whole=False), reset(), stall(20), drip(20), flood(), status(200, "[]"),
    status(200, '{"choices": []}'), status(200, "[" * 100_000), status(200, '{"choices": [{"message": 3}]}'),
], ids=("500 503 529 408 429 truncated cut-off stream-ends-early reset stall drip flood list no-choice nested "
        "number").split())
def test_a_passing_fault_is_tried_again(bad):
    start = time.monotonic()
    found, requests = ask(lambda _, number: bad if number < 2 else answer(GOOD), timeout=0.5)
    assert found == Answer(GOOD) and len(requests) == 3
    assert time.monotonic() - start < 8


def test_a_response_without_an_end_is_left_long_before_the_time_is_up():
    start = time.monotonic()
    with pytest.raises(NoAnswerError, match="more than 1,048,576 bytes"):
        ask(lambda *_: flood(), timeout=30, retries=0)
    assert time.monotonic() - start < 15


def test_a_server_is_given_up_after_the_retries():
    with pytest.raises(NoAnswerError, match=r"HTTP 500, 'overloaded' \(4 attempts\)") as caught:
        ask(lambda *_: status(500, '{"error": {"message": "overloaded"}}'), retries=3)
    assert len(caught.value.requests) == 4


def test_pauses_double_with_jitter(monkeypatch):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    client = ChatClient("http://localhost/v1", "m", 1, 6, seed=3)
    client.send = lambda body: (_ for _ in ()).throw(chat_client.TransientError("again"))
    monkeypatch.setattr(chat_client, "FIRST_WAIT", 8.0)
    with pytest.raises(NoAnswerError):
        client.ask([QUESTION])
    limits = [8, 16, 32, 60, 60, 60]
    assert all(limit / 2 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
    assert len({wait / limit for wait, limit in zip(waits, limits, strict=True)}) == 6


def test_retry_after_is_waited_for():
    start = time.monotonic()
    ask(lambda _, number: answer(GOOD) if number else status(429, Retry_After="0.6"))
    assert time.monotonic() - start >= 0.6


def test_retry_after_may_be_a_date():
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    assert 95 < parse_retry_after(date) <= 100
    assert [parse_retry_after(value) for value in ("12", None, "soon", "-3", "nan")] == [12, 0, 0, 0, 0]


# What is no use to try again


@pytest.mark.parametrize(("bad", "words"), [
    (status(401), "OPENAI_API_KEY"), (status(403), "OPENAI_API_KEY"), (status(402), "HTTP 402"),
    (status(404, '{"error": {"message": "model not found"}}'), "model not found.*--model llama3"),
    (status(429, Retry_After="4000"), "asks to wait 4000 s"),
    (status(429, '{"error": {"code": "insufficient_quota", "message": "pay"}}'), "pay.*top up"),
])
def test_what_waiting_does_not_mend_ends_at_once_in_one_line(bad, words):
    with pytest.raises(UserError, match=words) as caught:
        ask(lambda *_: bad)
    assert len(caught.value.requests) == 1 and "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [400, 413, 422])
def test_one_caption_that_is_refused_has_no_answer_and_the_next_is_asked(code):
    refused = status(code, '{"error": {"code": "content_filter", "message": "no\\nsuch words"}}')
    good, bad = (Question(build_prompt(caption, PHRASE), 0, is_greedy=True) for caption in ("a man", "a filtered man"))
    with ChatServer(lambda caption, _: refused if "filtered" in caption else answer(GOOD)) as server:
        client = ChatClient(server.address, "llama3", 5, retries=3)
        with pytest.raises(NoAnswerError, match=f"HTTP {code}, 'no such words'; correct --model or --api_base"):
            client.ask([bad])  # nothing is known of the server yet
        assert client.ask([good]) == [Answer(GOOD)]
        with pytest.raises(NoAnswerError, match=f"HTTP {code}, 'no such words'$"):
            client.ask([bad])
        assert client.ask([good]) == [Answer(GOOD)]
        assert len(server.requests) == 4  # none is sent again


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_so_the_key_stays_with_its_server(code, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with ChatServer(lambda *_: answer(GOOD)) as other:
        with pytest.raises(UserError, match=f"redirects to 127.0.0.1:{other.server_port}"):
            ask(lambda *_: status(code, Location=f"{other.address}/chat/completions"))
        assert not other.requests


def test_nobody_at_the_address_is_said_at_once():
    with ChatServer(None) as server:
        address = server.address
    start = time.monotonic()
    with pytest.raises(UserError, match="no server answers there"):
        ChatClient(address, "m", 5, retries=9).ask([QUESTION])
    assert time.monotonic() - start < 2


def test_a_server_that_restarts_is_waited_for():
    with ChatServer(lambda *_: answer(GOOD)) as server:
        client = ChatClient(server.address, "m", 5, retries=2)
        client.ask([QUESTION])
    with pytest.raises(NoAnswerError, match="refused"):
        client.ask([QUESTION])


def test_something_that_is_no_http_server_is_named():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:
        def greet():
            connection, _ = listener.accept()
            connection.sendall(b"SSH-2.0-OpenSSH\r\n")
            connection.close()
        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(NoAnswerError, match="connection failed"):
            ChatClient(f"http://127.0.0.1:{listener.getsockname()[1]}", "m", 2, retries=0).ask([QUESTION])


# Addresses


@pytest.mark.parametrize(("text", "path"), [
    ("http://localhost:11434/v1", "/v1/chat/completions"), ("https://api.example.org/v1/", "/v1/chat/completions"),
    ("http://[::1]:8000", "/chat/completions"), ("http://a/v1/chat/completions", "/v1/chat/completions")])
def test_an_address_with_or_without_the_end_is_taken(text, path):
    assert parse_address(text)[1] == path


@pytest.mark.parametrize("text", [
    "", "localhost:11434", "ftp://a/v1", "http://", "http://a:99999", "http://a:x", "http://sk-1:sk-2@a/v1",
    "http://a/v1?key=sk-1", "http://a/v1#sk-1", "http://[::1", "http://a/v 1", "http://a/\u00e9", "http://a:0/v1",
    "http://ex ample", "http://b\u00fccher.example/v1", "http://a\n/v1", "http://a/v1\n", " http://a", "http://a..b",
    "http://.a", f"http://{'a' * 64}/v1", f"http://{'a.' * 130}b/v1", "http://[v1.x]/", "http://[::1]x", "http://::1/",
    "http://[]", "http://a:80:90", "http://sk-1@[::1", "http://%41/"])
def test_any_other_address_is_refused_without_being_repeated(text):
    with pytest.raises(ValueError) as caught:
        parse_address(text)
    assert "sk-" not in str(caught.value)


@pytest.mark.parametrize("separator", ["\u2028", "\u0085"])
def test_line_separators_inside_an_answer_do_not_end_an_event(separator):
    event = json.dumps({"choices": [{"delta": {"content": f"a{separator}b"}}]}, ensure_ascii=False)
    assert chat_client.parse_stream(f"data: {event}\r\n\r\ndata: [DONE]\n").text == f"a{separator}b"


def test_any_response_is_an_answer_or_a_passing_fault():
    rng, letters = random.Random(0), '{}[]":,\\ndataDONE0123null choicesmessagecontent\r\n '
    good = json.dumps({"choices": [{"message": {"content": "a"}, "delta": {"content": "b"}}]})
    faults = (ValueError, LookupError, TypeError, AttributeError, RecursionError)
    for number in range(2000):
        text = list(good if number % 2 else f"data: {good}\n\ndata: [DONE]\n")
        for _ in range(rng.randrange(6)):
            text[rng.randrange(len(text))] = rng.choice(letters)
        for parse in (chat_client.parse_completion, chat_client.parse_stream):
            try:
                assert isinstance(parse("".join(text)).text, str)
            except faults:
                pass
