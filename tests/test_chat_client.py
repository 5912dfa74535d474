"""The client of a chat server, against a real one on loopback that does what servers do."""

import json
import time

import pytest

from tests.chat_server import ChatServer, answer, cut_off, reset, stall, status
from utils.captions.enrichment import build_prompt
from utils.models.chat_client import ChatClient
from utils.models.questions import Answer, NoAnswerError, Question
from utils.system.errors import UserError

PHRASE = "making phone call hand gesture"
QUESTION = Question(build_prompt("a man", PHRASE), seed=7, is_greedy=True)
GOOD = f"a man {PHRASE}"
KEY = "sk-secret-0123456789"


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(script, question=QUESTION, timeout=5.0, retries=2):
    """(answer, requests that the server got); errors are raised with the requests as their `requests`."""
    with ChatServer(script) as server:
        try:
            return ChatClient(server.address, "llama3", timeout, retries).ask([question])[0], server.requests
        except (UserError, NoAnswerError) as error:
            error.requests = server.requests
            raise


def test_the_first_question_is_greedy_and_a_repeat_brings_its_seed():
    found, [(path, headers, body)] = ask(lambda *_: answer(GOOD))
    assert found == Answer(GOOD) and path == "/v1/chat/completions"
    assert (body["model"], body["temperature"], body["seed"]) == ("llama3", 0, 7)
    assert body["messages"] == [{"role": "user", "content": QUESTION.prompt}]
    assert not {"x-stainless-os", "x-stainless-arch", "x-stainless-runtime"} & {name.lower() for name in headers}
    _, [(_, _, body)] = ask(lambda *_: answer(GOOD), Question(QUESTION.prompt, 8, is_greedy=False))
    assert body["temperature"] > 0 and body["seed"] == 8


def test_the_key_is_sent_and_appears_in_no_message(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    _, [(_, headers, _)] = ask(lambda *_: answer(GOOD))
    assert headers["authorization"] == f"Bearer {KEY}"
    for code in (401, 403, 404, 418, 500):
        with pytest.raises((UserError, NoAnswerError)) as caught:
            ask(lambda *_: status(code, json.dumps({"error": {"message": f"bad key {KEY}"}})), retries=0)  # noqa: B023
        assert f"HTTP {code}" in str(caught.value) and "bad key ***" in str(caught.value)
        assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", ["sk-a b", "sk-\u00e9", "sk-a\nb"])
def test_a_key_that_no_header_can_carry_is_refused_without_being_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(UserError, match="OPENAI_API_KEY") as caught:
        ChatClient("http://localhost/v1", "m", 1, 0)
    assert key not in str(caught.value)


def test_an_answer_cut_at_the_longest_length_is_told_apart_and_none_is_empty():
    assert ask(lambda *_: answer("a man and", "length"))[0] == Answer("a man and", is_whole=False)
    assert ask(lambda *_: answer(None))[0] == Answer("")


@pytest.mark.parametrize("bad", [status(500), status(503, "<html>"), status(408), status(429), cut_off(GOOD), reset(),
                                 stall(20)], ids="500 503 408 429 cut-off reset stall".split())
def test_a_passing_fault_is_tried_again(bad):
    found, requests = ask(lambda _, number: bad if number < 1 else answer(GOOD), timeout=0.5)
    assert found == Answer(GOOD) and len(requests) == 2


def test_retry_after_is_waited_for():
    start = time.monotonic()
    ask(lambda _, number: answer(GOOD) if number else status(429, Retry_After="2"))
    assert time.monotonic() - start >= 2


@pytest.mark.parametrize(("bad", "error", "words", "num_requests"), [
    (status(500, '{"error": {"message": "overloaded"}}'), NoAnswerError, "HTTP 500, 'overloaded'$", 2),
    (stall(20), NoAnswerError, "no whole answer in 0.5 s; --timeout allows more", 2),
    (status(200, '{"choices": ['), NoAnswerError, "not the whole of a JSON", 1),
    *((status(200, body), NoAnswerError, "no chat completion", 1)
      for body in ("[]", '{"choices": []}', '{"choices": [{"message": {"content": 3}}]}')),
    *((status(code, '{"error": {"message": "no\\nsuch words"}}'), NoAnswerError, "'no such words'; correct --model", 1)
      for code in (400, 413, 422)),
    (status(401), UserError, "set OPENAI_API_KEY", 1), (status(403), UserError, "set OPENAI_API_KEY", 1),
    (status(402), UserError, "HTTP 402", 1),
    (status(404, '{"error": {"message": "model not found"}}'), UserError, "model not found.*--model llama3", 1),
    (status(429, '{"error": {"code": "insufficient_quota", "message": "pay"}}'), UserError, "pay.*top up", 2),
])
def test_what_does_not_go_well_is_one_line(bad, error, words, num_requests):
    with pytest.raises(error, match=words) as caught:
        ask(lambda *_: bad, timeout=0.5, retries=1)
    assert len(caught.value.requests) == num_requests and "\n" not in str(caught.value)


@pytest.mark.parametrize("code", [302, 307])
def test_a_redirect_is_not_followed_so_nobody_else_is_asked(code):
    with ChatServer(lambda *_: answer(GOOD)) as other:
        with pytest.raises(UserError, match=f"HTTP {code}"):
            ask(lambda *_: status(code, Location=f"{other.address}/chat/completions"))
        assert not other.requests


def test_nobody_at_the_address_is_said_at_once_and_a_server_that_has_gone_later():
    with ChatServer(lambda *_: answer(GOOD)) as server:
        client = ChatClient(server.address, "m", 5, retries=0)
        client.ask([QUESTION])
    with pytest.raises(NoAnswerError, match="the connection failed"):
        client.ask([QUESTION])
    with pytest.raises(UserError, match="no server answers there"):
        ChatClient(server.address, "m", 5, retries=9)
