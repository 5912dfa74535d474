"""A real HTTP server on loopback that answers chat completions, well or badly, as a test wants it."""

import json
import re
import socket
import struct
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

CAPTION = re.compile(r"The original sentence is: '(.*)\.' The final sentence")


def completion(text, finish_reason="stop"):
    message = {"role": "assistant", "content": text}
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish_reason}]}


# Replies: functions of the handler of a request


def answer(text, finish_reason="stop"):
    return lambda handler: handler.respond(200, json.dumps(completion(text, finish_reason)))


def status(code, body="{}", **headers):
    return lambda handler: handler.respond(code, body, {name.replace("_", "-"): v for name, v in headers.items()})


def cut_off(text):
    """Half of a response, shorter than its Content-Length."""
    body = json.dumps(completion(text))
    return lambda handler: handler.respond(200, body[:len(body) // 2], {"Content-Length": str(len(body))})


def stall(seconds):
    return lambda handler: handler.server.closing.wait(seconds)


def reset():
    def reply(handler):
        handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        handler.connection.close()
    return reply


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        caption = CAPTION.search(body["messages"][0]["content"]).group(1)
        with self.server.lock:
            number = self.server.asked[caption]
            self.server.asked[caption] += 1
            self.server.requests.append((self.path, dict(self.headers), body))
            self.server.in_flight += 1
            self.server.most_in_flight = max(self.server.most_in_flight, self.server.in_flight)
        try:
            self.server.script(caption, number)(self)
        except OSError:  # the client has gone
            pass
        finally:
            with self.server.lock:
                self.server.in_flight -= 1

    def respond(self, code, body, headers=()):
        body = body.encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(body)),
                            **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def finish(self):
        try:
            super().finish()
        except (OSError, ValueError):  # reset
            pass

    def log_message(self, *args):
        pass


class ChatServer(ThreadingHTTPServer):
    """Context: a server at `address` whose reply to a request is script(caption, how often it was asked before)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.lock, self.closing = script, threading.Lock(), threading.Event()
        self.asked, self.requests = Counter(), []
        self.in_flight = self.most_in_flight = 0
        self.address = f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request, client_address):
        pass

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.closing.set()
        self.shutdown()
        self.server_close()
