"""A server that speaks the OpenAI protocol: its address, its model, and one request at a time, never sent twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from threading import Lock
from typing import Any, ClassVar, Literal

from stabilitykit.endpoints.address import api_key, base_url, without
from stabilitykit.endpoints.answer import Answer, MalformedError, read_answer
from stabilitykit.errors import UnreadableError, UsageError
from stabilitykit.subjects.measurable import Measurable

Api = Literal["completions", "chat"]
APIS: tuple[Api, ...] = ("completions", "chat")
CANDIDATES = 5
"""Most likely tokens that are asked for at each place; the protocol allows no more everywhere."""

_REFUSED = (400, 404, 415, 422, 501)
_NAMED, _QUOTED = 8, 160


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. `seed` None leaves it to the server."""

    prompt: str
    tokens: int
    temperature: float = 0.0
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: an answer, or the sentence that says why none did; when it was sent and when it was there.

    `lost` says that the connection failed: nobody was there, or somebody went away.
    """

    request: Request
    answer: Answer | None = None
    error: str = ""
    lost: bool = False
    status: int | None = None
    start: float = 0.0
    end: float = 0.0


class Endpoint(Measurable):
    """A model behind an OpenAI-compatible address, such as `http://localhost:8000/v1`.

    `served_name` is the model's name there, needed only where the server has several. `api` is "completions" (the
    prompt as it is) or "chat" (as a user's message). The key is read from the environment variable `key_variable`
    (default OPENAI_API_KEY, if set) and is in no text that this object gives away. `timeout` in seconds.

    No request is ever repeated: one that fails is a `Reply` with an error. The counter counts requests as calls.
    UsageError for an address or a variable that cannot be meant; UnreadableError, when first asked, if the openai
    client is missing, nobody is there, or what is there serves no model.
    """

    made_by: ClassVar[str] = 'Endpoint("http://localhost:8000/v1")'

    def __init__(
        self,
        url: str,
        served_name: str | None = None,
        *,
        api: Api = "completions",
        key_variable: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        if api not in APIS:
            raise UsageError(f"api {api!r} is none of {', '.join(APIS)}")
        if not timeout > 0:
            raise UsageError(f"timeout {timeout!r} is no number of seconds above 0")
        self.url, self.api, self.timeout = base_url(url), api, timeout
        self._key, self._served_name = api_key(key_variable), served_name
        self._counting = Lock()

    def __repr__(self) -> str:
        """Return the address."""
        return f"Endpoint({self.url!r}, api={self.api!r})"

    def describe(self) -> dict[str, Any]:
        """Return the address, the model's name there and the protocol: what it computes with, nobody outside knows."""
        client = f"openai {_client_library().__version__}"
        return {"name": self.model, "url": self.url, "api": self.api, "client": client}

    @cached_property
    def model(self) -> str:
        """The name of the served model: the one that was given, or the only one that the server lists."""
        return self._served_name or self._listed()

    @cached_property
    def takes_logprobs(self) -> bool:
        """Whether the server takes a request for logprobs; one that takes and ignores it gives none all the same.

        Found by a first request, which also makes a server load its model; UnreadableError if it fails both ways.
        """
        asked = Request("Hello", 1)
        first = self._send(asked, self._logprobs())
        if first.answer is not None:
            return True
        again = self._send(asked, {}) if first.status in _REFUSED else first
        if again.answer is None:
            raise UnreadableError(f"{self.url} {again.error}; see that it serves {self.api}, or choose another API")
        return False

    def ask(self, request: Request) -> Reply:
        """Send one request and wait; a failure is a sentence in the reply."""
        return self._send(request, self._logprobs() if self.takes_logprobs else {})

    def _send(self, request: Request, more: dict[str, Any]) -> Reply:
        with self._counting:  # requests at once come from threads
            self.counter.calls += 1
        content: dict[str, Any] = (
            {"messages": [{"role": "user", "content": request.prompt}]}
            if self.api == "chat"
            else {"prompt": request.prompt}
        )
        seed = {} if request.seed is None else {"seed": request.seed}
        asked = {**content, **more, **seed, "max_tokens": request.tokens, "temperature": request.temperature}
        create = self._client.chat.completions if self.api == "chat" else self._client.completions
        start = time.perf_counter()
        reply = self._received(request, lambda: create.with_raw_response.create(model=self.model, **asked))
        return replace(reply, start=start, end=time.perf_counter())

    def _received(self, request: Request, send: Callable[[], Any]) -> Reply:
        openai = _client_library()
        try:
            return Reply(request, read_answer(self._json(send().http_response), self._clean))
        except openai.APITimeoutError:
            return Reply(request, error=f"gave no answer within {self.timeout:g} s")
        except openai.APIConnectionError as error:
            return Reply(request, error=f"cannot be reached ({self._why(error.__cause__ or error)})", lost=True)
        except openai.APIStatusError as error:
            return Reply(request, error=self._refusal(error), status=error.status_code)
        except MalformedError as error:
            return Reply(request, error=str(error))

    def _json(self, response: Any) -> Any:
        try:
            return response.json()
        except (ValueError, RecursionError):
            kind = response.headers.get("content-type", "no type").split(";")[0]
            raise MalformedError(f"answered with {_quoted(kind)} instead of JSON") from None

    def _refusal(self, error: Any) -> str:
        words = {401: "refuses the key", 403: "refuses the key", 429: "refused: too many requests"}
        status = error.status_code
        return f"{words[status]} ({status})" if status in words else f"answered {status} ({self._why(error)})"

    def _why(self, error: BaseException) -> str:
        first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        return _quoted(self._clean(first).rstrip("."))

    def _clean(self, text: str) -> str:
        return without(self._key, text)

    def _listed(self) -> str:
        openai = _client_library()
        try:
            listed = self._json(self._client.models.with_raw_response.list().http_response)
        except openai.APIConnectionError as error:
            raise UnreadableError(
                f"{self.url} cannot be reached ({self._why(error.__cause__ or error)}); start the server"
            ) from None
        except openai.APIStatusError as error:
            raise UnreadableError(f"{self.url} {self._refusal(error)} when asked for its models") from None
        except MalformedError as error:
            raise UnreadableError(f"{self.url} {error} when asked for its models") from None
        data = listed.get("data") if isinstance(listed, dict) else None
        entries = [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []
        names = [one["id"] for one in entries if isinstance(one.get("id"), str)]
        if len(names) == 1:
            return self._clean(names[0])
        if not names:
            raise UnreadableError(f"{self.url} lists no model; name one with --served-model")
        some = ", ".join(_quoted(self._clean(name)) for name in names[:_NAMED])
        raise UsageError(f"{self.url} serves {len(names)} models; name one with --served-model: {some}")

    def _logprobs(self) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": CANDIDATES} if self.api == "chat" else {"logprobs": CANDIDATES}

    @cached_property
    def _client(self) -> Any:
        # A retry would hide the failure, and ask the server twice for one answer.
        return _client_library().OpenAI(
            base_url=self.url, api_key=self._key or "none", max_retries=0, timeout=self.timeout
        )


def _client_library() -> Any:
    """Return the official client, which is an extra."""
    try:
        import openai
    except ImportError:
        raise UnreadableError("the official client is not installed; pip install 'stabilitykit[endpoint]'") from None
    return openai


def _quoted(text: str) -> str:
    """Return what a server wrote as a Python literal, in which nothing is invisible, cut to a readable length."""
    return repr(text if len(text) <= _QUOTED else text[: _QUOTED - 3] + "...")
