"""Addresses, keys that nobody reads, models that are served, and answers that are none."""

import math
import sys

import pytest
from oracles.planted_server import Planted, serving

import stabilitykit as sk
from stabilitykit.endpoints.address import base_url
from stabilitykit.endpoints.endpoint import Request

KEY = "sk-planted-0123456789"
REQUEST = Request("one", 4)


@pytest.fixture(autouse=True)
def no_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://localhost:8000", "http://localhost:8000/v1"),
        ("http://localhost:8000/", "http://localhost:8000/v1"),
        ("https://host/v1/", "https://host/v1"),
        ("http://[::1]:8000/some/where", "http://[::1]:8000/some/where"),
    ],
)
def test_addresses(given, used):
    assert base_url(given) == used


@pytest.mark.parametrize(
    "given",
    [
        "",
        "localhost:8000",
        "ftp://host/v1",
        "http://",
        "http://host:port",
        "http://[::1",
        "http://h\x1b/",
        "http://h /v1",
    ],
)
def test_what_is_no_address_is_refused(given):
    with pytest.raises(sk.UsageError, match="not of the form"):
        sk.Endpoint(given)


@pytest.mark.parametrize("given", [f"http://me:{KEY}@host/v1", f"http://host/v1?key={KEY}", f"http://host/v1#{KEY}"])
def test_a_key_in_the_address_is_refused_and_not_repeated(given):
    with pytest.raises(sk.UsageError, match="environment variable") as caught:
        sk.Endpoint(given)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("variable", [KEY, "skplanted0123", ""])
def test_a_key_in_place_of_its_variable_is_not_repeated(variable):
    with pytest.raises(sk.UsageError, match="variable") as caught:
        sk.Endpoint("http://host", key_variable=variable)
    assert not variable or variable not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\nx", f"{KEY}é"])
def test_a_key_that_no_header_can_hold_is_refused(monkeypatch, key):
    monkeypatch.setenv("PLANTED_KEY", key)
    with pytest.raises(sk.UsageError, match="no header") as caught:
        sk.Endpoint("http://host", key_variable="PLANTED_KEY")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("variable", [None, "PLANTED_KEY"])
def test_the_key_is_sent_and_nowhere_to_be_read(monkeypatch, variable):
    monkeypatch.setenv(variable or "OPENAI_API_KEY", KEY)
    planted = Planted(echoes_key=True, status={3: 500})
    with serving(planted) as url:
        endpoint = sk.Endpoint(url, key_variable=variable)
        result = sk.measure(sk.ServedDeterminism(("one",), 4, 2, (2,)), endpoint, progress=False)
    assert {header["authorization"] for header in planted.headers} == {f"Bearer {KEY}"}
    assert "[key]" in result.to_json()
    assert KEY not in result.to_json() + repr(endpoint)


def test_a_short_word_for_a_key_blots_nothing_out(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "w")
    with serving(Planted()) as url:
        assert " w" in sk.Endpoint(url).ask(REQUEST).answer.text


def test_the_only_model_is_asked_and_one_of_several_must_be_named():
    planted = Planted(models=("a\x1b",))
    with serving(planted) as url:
        sk.Endpoint(url).ask(REQUEST)
        assert planted.bodies[-1]["model"] == "a\x1b"
        planted.models = ("a\x1b", "b")
        with pytest.raises(sk.UsageError, match=r"serves 2 models; name one with --served-model: 'a\\x1b', 'b'"):
            sk.Endpoint(url).ask(REQUEST)
        sk.Endpoint(url, "b").ask(REQUEST)
        assert planted.bodies[-1]["model"] == "b"
        planted.models = ()
        with pytest.raises(sk.UnreadableError, match="lists no model"):
            sk.Endpoint(url).ask(REQUEST)


@pytest.mark.parametrize("listing", ["[]", "5", '{"data": 5}', '{"data": [5, {"id": 7}, {}]}', '{"data": {"id": "a"}}'])
def test_a_listing_without_names_is_one(listing):
    with serving(Planted(listing=listing)) as url, pytest.raises(sk.UnreadableError, match="lists no model"):
        sk.Endpoint(url).ask(REQUEST)


def test_a_listing_that_is_a_page_is_one_sentence():
    sentence = r"answered with 'application/json' instead of JSON when asked for its models"
    with serving(Planted(listing="<html>")) as url, pytest.raises(sk.UnreadableError, match=sentence):
        sk.Endpoint(url).ask(REQUEST)


def test_what_is_asked_is_what_was_meant():
    planted = Planted()
    with serving(planted) as url:
        sk.Endpoint(url).ask(Request("one", 4, 0.5, 7))
        sk.Endpoint(url, api="chat").ask(REQUEST)
    one, chat = planted.bodies[1], planted.bodies[3]
    asked = {"model": "planted", "prompt": "one", "max_tokens": 4, "temperature": 0.5, "seed": 7, "logprobs": 5}
    assert one == asked
    assert chat == {
        "model": "planted",
        "messages": [{"role": "user", "content": "one"}],
        "max_tokens": 4,
        "temperature": 0.0,
        "logprobs": True,
        "top_logprobs": 5,
    }


@pytest.mark.parametrize(
    ("planted", "sentence"),
    [
        (Planted(body="<html>", kind="text/html"), "answered with 'text/html' instead of JSON"),
        (Planted(body='data: {"choices": []}\n\n', kind="text/event-stream"), "'text/event-stream' instead of JSON"),
        (Planted(body="{", kind="application/json"), "answered with 'application/json' instead of JSON"),
        (Planted(body="[" * 100_000), "answered with 'application/json' instead of JSON"),
        (Planted(body='{"choices": []}'), "JSON that holds no completion"),
        (Planted(body="[]"), "JSON that holds no completion"),
        (Planted(status=dict.fromkeys(range(9), 401)), r"refuses the key \(401\)"),
        (Planted(status=dict.fromkeys(range(9), 404)), r"answered 404 \(.*no\\+x1b"),
        (Planted(dies_after=0), "cannot be reached"),
    ],
)
def test_what_is_no_answer_is_one_sentence(planted, sentence):
    with serving(planted) as url, pytest.raises(sk.UnreadableError, match=sentence) as caught:
        sk.measure(sk.ServedDeterminism(("one",), 4, 2, (2,)), sk.Endpoint(url, "planted"), progress=False)
    assert "\n" not in str(caught.value)


def test_a_late_answer_is_named_with_the_time_it_had():
    planted = Planted(hangs_after=1)
    with serving(planted) as url:
        reply = sk.Endpoint(url, timeout=0.2).ask(REQUEST)
    assert (reply.error, reply.answer, reply.lost) == ("gave no answer within 0.2 s", None, False)


def test_who_hangs_up_is_lost():
    planted = Planted(dies_after=1)
    with serving(planted) as url:
        reply = sk.Endpoint(url).ask(REQUEST)
    assert (reply.answer, reply.lost, reply.status) == (None, True, None)
    assert reply.error.startswith("cannot be reached (")
    assert len(planted.bodies) == 2


def test_nobody_there_is_one_sentence():
    with serving(Planted()) as url:
        pass
    with pytest.raises(sk.UnreadableError, match=r"cannot be reached \(.*refused.*start the server"):
        sk.Endpoint(url).ask(REQUEST)


def test_without_the_client_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(sk.UnreadableError, match=r"pip install 'stabilitykit\[endpoint\]'"):
        sk.Endpoint("http://localhost:1").ask(REQUEST)
    with pytest.raises(sk.UnreadableError, match=r"pip install 'stabilitykit\[endpoint\]'"):
        sk.Endpoint("http://localhost:1").describe()


@pytest.mark.parametrize("parts", [{"api": "embeddings"}, {"timeout": 0}, {"timeout": math.nan}])
def test_what_cannot_be_meant_is_refused(parts):
    with pytest.raises(sk.UsageError):
        sk.Endpoint("http://localhost", **parts)
