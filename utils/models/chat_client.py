"""Questions to a language model behind an OpenAI-compatible server, with nothing but the standard library.

The key comes from the environment. It goes to the given address only, and into no message, log or file.
"""

import contextlib
import email.utils
import http.client
import ipaddress
import json
import os
import random
import re
import socket
import ssl
import threading
import time
import urllib.parse

from utils.models.questions import Answer, NoAnswerError
from utils.system.errors import UserError, one_line

KEY_VARIABLE = "OPENAI_API_KEY"
TEMPERATURE = 0.7  # of answers after the first
MAX_ANSWER_TOKENS = 256
MAX_BYTES = 2**20  # of a response
TRANSIENT = {408, 409, 425, 429}  # and 500 upwards
REFUSES_ONE = {400, 413, 422}  # may be about this caption alone, as a content filter is
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds between attempts; doubled each time
LONGEST_RETRY_AFTER = 300.0  # seconds a server may ask us to wait


class TransientError(Exception):
    """What may go well when tried again; `wait` is the number of seconds the server asks for."""

    def __init__(self, message, wait=0.0):
        super().__init__(message)
        self.wait = wait


def parse_address(text):
    """(address split by urllib, its path up to /chat/completions). ValueError says what is wrong with it.

    The text is not repeated in the message: somebody may have put a key into it.
    """
    if not text.isprintable() or not text.isascii() or " " in text:  # urllib leaves line breaks out
        raise ValueError("must be an address of printable ASCII characters, a host of other letters as xn--…")
    try:
        address = urllib.parse.urlsplit(text)
        is_valid = (address.port is None or address.port > 0) and is_location(address.netloc)
    except ValueError:
        is_valid = False
    if "@" in text or (is_valid and (address.query or address.fragment)):
        raise ValueError(f"must hold no user, password or query; a key is read from {KEY_VARIABLE}")
    if not is_valid or address.scheme not in ("http", "https"):
        raise ValueError("must be an address such as http://localhost:11434/v1")
    return address, address.path.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"


def is_location(netloc):
    """Whether this is the name of a host, an IPv4 address or an IPv6 address in brackets, with or without a port."""
    host = re.fullmatch(r"([^:\[\]]+|\[.+\])(:\d*)?", netloc)
    if host is None:
        return False
    if netloc.startswith("["):
        with contextlib.suppress(ValueError):
            return bool(ipaddress.IPv6Address(host[1][1:-1]))
        return False
    labels = host[1].removesuffix(".").split(".")
    return len(host[1]) <= 253 and all(re.fullmatch(r"[\w-]{1,63}", label) for label in labels)


def read_key():
    """The key of the environment, or None. UserError, which does not show it, if no header can carry it."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{KEY_VARIABLE} holds spaces or characters that no key has; set it again")
    return key or None


def parse_retry_after(value):
    """Seconds of a Retry-After header, a number or a date; 0 if there is none that can be read."""
    try:
        return max(0.0, float(value))
    except (TypeError, ValueError):
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def read_choice(choice, name):
    """Text of choices[0].message or .delta: a text, a list of parts, or nothing."""
    content = (choice.get(name) or {}).get("content") or ""
    parts = content if isinstance(content, list) else [{"text": content}]
    return "".join(str(part.get("text") or "") for part in parts)


def parse_completion(text):
    """Answer of a whole JSON response. ValueError and the like if it is none."""
    choice = json.loads(text)["choices"][0]
    return Answer(read_choice(choice, "message"), choice.get("finish_reason") != "length")


def parse_stream(text):
    """Answer of an event stream. ValueError if it ends before the answer does."""
    pieces, finish_reason, is_done = [], None, False
    for line in text.replace("\r\n", "\n").split("\n"):  # JSON may hold other line separators
        field, _, data = line.partition(":")
        if field != "data" or is_done:
            continue
        if data.strip() == "[DONE]":
            is_done = True
            continue
        for choice in (json.loads(data).get("choices") or [])[:1]:  # the last event may hold only counts
            pieces.append(read_choice(choice, "delta"))
            finish_reason = choice.get("finish_reason") or finish_reason
    if not (is_done or finish_reason):
        raise ValueError("the stream ends early")
    return Answer("".join(pieces), finish_reason != "length")


class ChatClient:
    """Asks one model of one server; safe to use from several threads."""

    def __init__(self, api_base, model, timeout, retries, seed=0):
        self.address, self.path = parse_address(api_base)
        self.name = f"{self.address.scheme}://{self.address.netloc}"  # for messages
        self.model, self.timeout, self.retries = model, timeout, retries
        self.key = read_key()
        self.has_answered = False
        self.jitter = random.Random(seed)

    def ask(self, questions):
        """Answers to Questions, one after another. NoAnswerError, or UserError where trying again is no use."""
        return [self.ask_with_retries(question) for question in questions]

    def ask_with_retries(self, question):
        body = {"model": self.model, "messages": [{"role": "user", "content": question.prompt}], "stream": False,
                "max_tokens": MAX_ANSWER_TOKENS, "seed": question.seed,
                "temperature": 0.0 if question.is_greedy else TEMPERATURE}
        body = json.dumps(body).encode()
        for attempt in range(self.retries + 1):
            try:
                answer = self.send(body)
                self.has_answered = True
                return answer
            except TransientError as error:
                problem, wait = str(error), error.wait
            if attempt < self.retries:
                backoff = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * self.jitter.uniform(0.5, 1.0)
                time.sleep(max(backoff, wait))
        raise NoAnswerError(f"{self.name}: {problem} ({attempt + 1} attempts)")

    def send(self, body):
        """One request: Answer, or TransientError, or NoAnswerError, or UserError."""
        secure = self.address.scheme == "https"
        connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = connect(self.address.hostname, self.address.port, timeout=self.timeout)
        is_late = threading.Event()
        timer = None
        try:
            connection.connect()
            timer = threading.Timer(self.timeout, self.cut_off, (connection.sock, is_late))
            timer.daemon = True
            timer.start()
            headers = {"Content-Type": "application/json", "Accept": "application/json", "Connection": "close"}
            if self.key:
                headers["Authorization"] = f"Bearer {self.key}"
            connection.request("POST", self.path, body, headers)
            response = connection.getresponse()
            text = response.read(MAX_BYTES + 1).decode("utf-8", errors="replace")
            if is_late.is_set():
                raise TimeoutError
        except ssl.SSLCertVerificationError as error:
            raise UserError(f"{self.name}: its certificate is not trusted ({error.verify_message}); "
                            "correct --api_base") from error
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError) or is_late.is_set():
                raise TransientError(f"no whole answer in {self.timeout:g} s; --timeout allows more") from error
            self.check_connection(error)
            raise TransientError(f"the connection failed ({self.tidy(error) or type(error).__name__})") from error
        finally:
            if timer:
                timer.cancel()
            connection.close()
        return self.read_response(response, text)

    @staticmethod
    def cut_off(sock, is_late):
        """Ends a response that comes drop by drop: each of its reads alone would be in time."""
        is_late.set()
        try:
            sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # closed already
            pass

    def check_connection(self, error):
        """UserError if nobody was ever there."""
        if not self.has_answered and isinstance(error, (ConnectionRefusedError, socket.gaierror)):
            raise UserError(f"{self.name}: no server answers there ({error.strerror}); start it, or correct "
                            "--api_base") from error

    def tidy(self, text):
        """`text` of a server as one short line without our key."""
        text = str(text).replace(self.key, "***") if self.key else str(text)
        return one_line(" ".join(text.split()))[:200]

    def read_response(self, response, text):
        """Answer of a response that has come, or TransientError, or NoAnswerError, or UserError."""
        status = response.status
        if 300 <= status < 400:
            host = urllib.parse.urlsplit(response.getheader("Location", "")).netloc or "another address"
            raise UserError(f"{self.name}: it redirects to {self.tidy(host)}, which is not followed; "
                            "give the final address as --api_base")
        if status >= 400:
            self.refuse(status, text, parse_retry_after(response.getheader("Retry-After")))
        if len(text) > MAX_BYTES:
            raise TransientError(f"a response of more than {MAX_BYTES:,} bytes")
        is_stream = response.getheader("Content-Type", "").lower().startswith("text/event-stream")
        try:
            answer = (parse_stream if is_stream else parse_completion)(text)
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise TransientError(f"the response is no chat completion, or not the whole of it: "
                                 f"{self.tidy(text)[:80]!r}") from error
        return Answer(answer.text.replace(self.key, "***"), answer.is_whole) if self.key else answer

    def refuse(self, status, text, wait):
        """TransientError, NoAnswerError or UserError of an HTTP status from 400 on."""
        try:
            error = json.loads(text)["error"]
            detail, code = (error, None) if isinstance(error, str) else (error.get("message"), error.get("code"))
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            detail, code = text, None
        problem = f"HTTP {status}" + (f", {self.tidy(detail)!r}" if detail else "")
        if (status in TRANSIENT or status >= 500) and code != "insufficient_quota":
            if wait > LONGEST_RETRY_AFTER:
                raise UserError(f"{self.name}: {problem}; it asks to wait {wait:.0f} s, so give the same command "
                                "again then: what is finished is kept")
            raise TransientError(problem, wait)
        remedy = {401: f"set {KEY_VARIABLE} to a key of this server",
                  403: f"set {KEY_VARIABLE} to a key that may use it",
                  404: f"is --model {self.model} there, and does --api_base end in /v1?",
                  429: "top up the account, then give the same command again"}
        message = f"{self.name}: {problem}; {remedy.get(status, 'correct --model or --api_base')}"
        if status in REFUSES_ONE and code != "insufficient_quota":  # if it says so to every caption, the run ends
            raise NoAnswerError(f"{self.name}: {problem}" if self.has_answered else message)
        raise UserError(message)
