"""Questions to a language model behind an OpenAI-compatible server, through OpenAI's client.

The key comes from the environment. It goes to the given address only, and into no message, log or file.
"""

import json
import os
import socket
import urllib.parse

import openai

from utils.models.questions import Answer, NoAnswerError
from utils.system.errors import UserError, one_line

KEY_VARIABLE = "OPENAI_API_KEY"
TEMPERATURE = 0.7  # of answers after the first
MAX_ANSWER_TOKENS = 256
REFUSES_ONE = {400, 413, 422}  # may be about this caption alone, as a content filter is
# The client would tell the server of the machine
UNSAID = [f"X-Stainless-{name}" for name in ("Lang", "Package-Version", "OS", "Arch", "Runtime", "Runtime-Version")]


def read_key():
    """The key of the environment, or "". UserError, which does not show it, if no header can carry it."""
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key.isascii() or not key.isprintable() or " " in key:
        raise UserError(f"{KEY_VARIABLE} holds spaces or characters that no key has; set it again")
    return key


class ChatClient:
    """Asks one model of one server; safe to use from several threads."""

    def __init__(self, api_base, model, timeout, retries):
        """UserError when nobody listens at the address."""
        address = urllib.parse.urlsplit(api_base)
        self.name = f"{address.scheme}://{address.netloc}"  # for messages
        self.model, self.key, self.timeout = model, read_key(), timeout
        try:
            port = address.port or (443 if address.scheme == "https" else 80)
            socket.create_connection((address.hostname, port), timeout).close()
        except OSError as error:
            raise UserError(f"{self.name}: no server answers there ({error.strerror or error}); start it, or correct "
                            "--api_base") from error
        # Neither a redirect nor a proxy of the environment leads to another server than the given one
        transport = openai.DefaultHttpxClient(follow_redirects=False, trust_env=False)
        self.client = openai.OpenAI(
            api_key=self.key or "none", base_url=api_base, timeout=timeout, max_retries=retries,
            default_headers=dict.fromkeys(UNSAID, openai.Omit()), http_client=transport)

    def ask(self, questions):
        """Answers to Questions, one after another. NoAnswerError, or UserError where trying again is no use."""
        return [self.ask_one(question) for question in questions]

    def ask_one(self, question):
        try:
            completion = self.client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": question.prompt}], seed=question.seed,
                max_tokens=MAX_ANSWER_TOKENS, temperature=0.0 if question.is_greedy else TEMPERATURE)
        except openai.APITimeoutError as error:
            raise NoAnswerError(f"{self.name}: no whole answer in {self.timeout:g} s; --timeout allows more") from error
        except openai.APIConnectionError as error:
            cause = self.tidy(error.__cause__ or error)
            raise NoAnswerError(f"{self.name}: the connection failed ({cause})") from error
        except openai.APIStatusError as error:
            raise self.explain_status(error) from error
        except json.JSONDecodeError as error:
            raise NoAnswerError(f"{self.name}: its response is not the whole of a JSON") from error
        try:  # the client leaves unchecked what a response holds
            choice = completion.choices[0]
            return Answer((choice.message.content or "").strip(), choice.finish_reason != "length")
        except (LookupError, TypeError, AttributeError) as error:
            raise NoAnswerError(f"{self.name}: its response is no chat completion") from error

    def tidy(self, text):
        """`text` of a server as one short line without our key."""
        text = str(text).replace(self.key, "***") if self.key else str(text)
        return one_line(" ".join(text.split()))[:200]

    def explain_status(self, error):
        """NoAnswerError, or UserError where no caption will be answered, for an HTTP status that is none of success."""
        status, body = error.status_code, error.body
        detail = body.get("message") if isinstance(body, dict) else body
        problem = f"{self.name}: HTTP {status}" + (f", {self.tidy(detail)!r}" if detail else "")
        if error.code == "insufficient_quota":
            return UserError(f"{problem}; top up the account, then give the same command again")
        if status >= 500 or status in (408, 409, 425, 429):
            return NoAnswerError(problem)
        remedy = {401: f"set {KEY_VARIABLE} to a key of this server",
                  403: f"set {KEY_VARIABLE} to a key that may use it",
                  404: f"is --model {self.model} there, and does --api_base end in /v1?"}
        message = f"{problem}; {remedy.get(status, 'correct --model or --api_base')}"
        return NoAnswerError(message) if status in REFUSES_ONE else UserError(message)
