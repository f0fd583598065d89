"""A real server that speaks the OpenAI protocol, whose tokens, ties, seeds and failures are planted."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

FLIP_AT, TIE, FIRM = 5, 0.0625, 2.0
WINDOW = 0.2


def word(*parts):
    return f" w{hashlib.sha256(repr(parts).encode()).hexdigest()[:4]}"


@dataclass
class Planted:
    """What is planted. From `flips_from` requests at once on, token FLIP_AT is its rival; its margin is TIE."""

    flips_from: int | None = None
    flips_alone_every: int | None = None
    seed: str = "honoured"  # honoured, ignored, alone (a global seed, re-drawn by what runs beside it), greedy
    logprobs: str = "given"  # given, ignored, refused
    moves: float = 0.0  # how far logprobs move under load
    status: dict[int, int] = field(default_factory=dict)  # the n-th completion asked for is answered with this status
    dies_after: int | None = None
    hangs_after: int | None = None
    body: str | None = None  # answered instead of any completion
    kind: str = "application/json"
    models: tuple[str, ...] = ("planted",)
    listing: str | None = None  # answered instead of these models
    names: tuple[str, ...] = ("planted",)
    fingerprints: tuple[str, ...] = ("fp",)
    empty: bool = False
    text: str = ""  # put before every completion
    echoes_key: bool = False
    # what was seen
    bodies: list = field(default_factory=list)
    headers: list = field(default_factory=list)
    here: set = field(default_factory=set)
    met: dict = field(default_factory=dict)
    drawn: int = 0
    arrived: threading.Condition = field(default_factory=threading.Condition)

    def tokens(self, prompt, count, flipped, drawn):
        """Greedy tokens, or those drawn with `drawn`; behind a flip the text goes another way."""
        said = []
        for place in range(count):
            said.append(word(prompt, place, flipped and place >= FLIP_AT, drawn))
        return said

    def loaded(self, number):
        """Wait until as many as it takes are there, or nobody else comes; return how many it met at most."""
        wanted = self.flips_from or 2
        with self.arrived:
            self.arrived.wait_for(lambda: self.met[number] >= wanted, WINDOW)
            return self.met[number]

    @contextmanager
    def under_way(self, body, headers):
        """Count a request from its arrival to its answer; all that are there meet it."""
        with self.arrived:
            self.bodies.append(body)
            self.headers.append(headers)
            number = len(self.bodies)
            self.here.add(number)
            self.met |= {one: max(self.met.get(one, 0), len(self.here)) for one in self.here}
            self.arrived.notify_all()
        try:
            yield number
        finally:
            with self.arrived:
                self.here.remove(number)

    def completion(self, asked, number, chat):
        waits = self.seed == "alone" if asked["temperature"] else self.flips_from or self.moves
        most = self.loaded(number) if waits else 1
        count, prompt = asked["max_tokens"], asked["messages"][0]["content"] if chat else asked["prompt"]
        drawn = None
        if asked["temperature"] and self.seed != "greedy":
            self.drawn += 1
            drawn = (asked.get("seed"), self.drawn if self.seed == "ignored" else 0)
            if self.seed == "alone" and most > 1:
                drawn = (drawn, self.drawn)
        flipped = self.flips_from is not None and most >= self.flips_from
        flipped |= bool(self.flips_alone_every) and number % self.flips_alone_every == 0
        tokens = [] if self.empty else self.tokens(prompt, count, flipped, drawn)
        finish = "length"
        choice = {"index": 0, "finish_reason": finish, "logprobs": None}
        text = self.text + "".join(tokens)
        if asked.get("logprobs") and self.logprobs == "given":
            choice["logprobs"] = self.candidates(prompt, tokens, flipped, self.moves if most > 1 else 0.0, chat)
        choice |= {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        named, mark = (options[number % len(options)] for options in (self.names, self.fingerprints))
        return {"id": "x", "created": 0, "object": "o", "model": named, "system_fingerprint": mark, "choices": [choice]}

    def candidates(self, prompt, tokens, flipped, moved, chat):
        entries = []
        for place, token in enumerate(tokens):
            best = -0.125 * place - moved
            # Both sides of the tie are known to either text, in the order that each found them.
            other = word(prompt, place, not flipped, None) if place == FLIP_AT else " other"
            entries.append((token, best, {token: best, other: best - (TIE if place == FLIP_AT else FIRM)}))
        if chat:
            return {
                "content": [
                    {"token": t, "logprob": p, "top_logprobs": [{"token": a, "logprob": b} for a, b in top.items()]}
                    for t, p, top in entries
                ]
            }
        columns = zip(*entries, strict=True) if entries else ((), (), ())
        return dict(zip(("tokens", "token_logprobs", "top_logprobs"), map(list, columns), strict=True))


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_GET(self):
        planted = self.server.planted
        listed = json.dumps({"object": "list", "data": [{"id": name} for name in planted.models]})
        self.answer(200, listed if planted.listing is None else planted.listing)

    def do_POST(self):
        planted = self.server.planted
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with planted.under_way(asked, {name.lower(): text for name, text in self.headers.items()}) as number:
            self.reply(planted, asked, number)

    def reply(self, planted, asked, number):
        if planted.dies_after is not None and number > planted.dies_after:
            self.close_connection = True
            return None
        if planted.hangs_after is not None and number > planted.hangs_after:
            threading.Event().wait(1.0)
        key = self.headers.get("authorization", "") if planted.echoes_key else ""
        if (status := planted.status.get(number, 200)) != 200:
            return self.answer(status, json.dumps({"error": {"message": f"no\x1b[31m {key}"}}))
        if planted.logprobs == "refused" and "logprobs" in asked:
            return self.answer(400, json.dumps({"error": {"message": "logprobs are not supported"}}))
        if planted.body is not None:
            return self.answer(200, planted.body, planted.kind)
        found = planted.completion(asked, number, self.path.endswith("/chat/completions"))
        if planted.echoes_key:
            found["choices"][0]["text"] = f"{key} {found['choices'][0]['text']}"
            found["model"] = f"planted {key}"
        return self.answer(200, json.dumps(found))

    def answer(self, status, text, kind="application/json"):
        data = text.encode()
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class Quiet(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_):
        """A client that gave up waiting is no news."""


@contextmanager
def serving(planted):
    """Serve it on a free port; give its address."""
    server = Quiet(("127.0.0.1", 0), Handler)
    server.planted = planted
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
