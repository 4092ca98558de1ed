"""The SSE decoder, and what is read from streams."""

from __future__ import annotations

import asyncio
import json
import types
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs

import llm_stresstest as st
from tests.conftest import chunk, finish, sse, usage


def reference_events(data: bytes) -> list[str]:
    """Read a whole stream by the letter of the standard, slowly: the oracle."""
    text = (
        data.removeprefix(b"\xef\xbb\xbf")
        .replace(b"\r\n", b"\n")
        .replace(b"\r", b"\n")
        .decode("utf-8", "replace")
    )
    events, buffer = [], ""
    for line in text.split("\n")[:-1]:
        if line == "":
            if buffer:
                events.append(buffer.removesuffix("\n"))
            buffer = ""
        elif not line.startswith(":"):
            name, _, value = line.partition(":")
            if name == "data":
                buffer += value.removeprefix(" ") + "\n"
    return events


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", ["a"]),
        (b"data:a\n\n", ["a"]),
        (b"data:  a\n\n", [" a"]),
        (b"data: a\r\n\r\n", ["a"]),
        (b"data: a\r\rdata: b\r\r", ["a", "b"]),
        (b"data: a\r\n\ndata: b\n\r\n", ["a", "b"]),
        (b"\xef\xbb\xbfdata: a\n\n", ["a"]),
        (b"data: a\ndata: b\n\n", ["a\nb"]),
        (b"data\n\n", [""]),
        (b"data:\ndata:\n\n", ["\n"]),
        (b": comment\n\ndata: a\n\n", ["a"]),
        (b"event: x\nid: 1\nretry: 5\ndata: a\n\n", ["a"]),
        (b"event: x\n\n", []),
        (b"dataset: no\n\n", []),
        (b"data: unfinished", []),
        (b"data: unfinished\n", []),
        ("data: \u2028\x85ä\n\n".encode(), ["\u2028\x85ä"]),
        (b"data: \xff\n\n", ["\ufffd"]),
        (b"\n\n\ndata: a\n\n\n\n", ["a"]),
    ],
)
def test_decoder_follows_the_standard_at_every_split(stream: bytes, events: list[str]) -> None:
    assert reference_events(stream) == events
    for cut in range(len(stream) + 1):
        decoder = st.SSEDecoder()
        assert decoder.feed(stream[:cut]) + decoder.feed(stream[cut:]) == events, cut
    decoder = st.SSEDecoder()
    assert [event for byte in stream for event in decoder.feed(bytes([byte]))] == events


stream_bytes = hs.lists(
    hs.sampled_from(
        [
            b"data: ",
            b"data:",
            b"data",
            b"\n",
            b"\n\n",
            b"\r\n",
            b"\r",
            b": c",
            b"event: e",
            b"\xef\xbb\xbf",
            b"x",
            b"{}",
        ]
    )
    | hs.text(max_size=4).map(lambda text: text.encode("utf-8", "surrogatepass")),
    max_size=30,
).map(b"".join)


@settings(max_examples=2000, deadline=None)
@given(stream=stream_bytes, cuts=hs.lists(hs.integers(0, 200), max_size=6))
def test_any_split_of_any_stream_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    decoder, events, start = st.SSEDecoder(), [], 0
    for cut in [*sorted(cut for cut in cuts if cut <= len(stream)), len(stream)]:
        events += decoder.feed(stream[start:cut])
        start = cut
    assert events == reference_events(stream)


def test_a_million_small_pieces_of_one_line_take_linear_time() -> None:
    decoder = st.SSEDecoder()
    assert decoder.feed(b"data: ") == []
    for _ in range(200_000):
        decoder.feed(b"x")
    assert len(decoder.feed(b"\n\n")[0]) == 200_000


def read(stream: bytes, api: str = "chat", cuts: list[int] | None = None) -> st.ParsedAnswer:
    """Read a stream as if it had come in reads that end at `cuts`, a second apart."""

    async def make() -> st.ParsedAnswer:
        exchange = st.Exchange(1 << 24)
        exchange.offsets = [*(cuts or []), len(stream)]
        exchange.reads_ns = [place * st.NS_PER_S for place in range(len(exchange.offsets))]
        exchange.content = types.SimpleNamespace(_buffer=[stream])  # type: ignore[assignment]
        parsed = st.ParsedAnswer()
        parsed.read_stream(st.APIS[api], exchange.timed_events())
        return parsed

    return asyncio.run(make())


def test_role_only_null_and_empty_chunks_and_comments_are_no_first_token() -> None:
    events = [
        sse(chunk(role="assistant")),
        sse(chunk(content=None)),
        sse(chunk(content="")),
        b": ping\n\n",
        sse(chunk(content="a")),
    ]
    cuts = [sum(map(len, events[: place + 1])) for place in range(len(events))]
    parsed = read(b"".join(events) + sse(finish(), "[DONE]"), cuts=cuts)
    assert parsed.chunk_ns == [4 * st.NS_PER_S]


def test_an_event_has_the_time_of_the_read_that_completed_it() -> None:
    event = sse(chunk(content="a"))
    parsed = read(event + event, cuts=[1, len(event) - 1, len(event), len(event) + 5])
    assert parsed.chunk_ns == [2 * st.NS_PER_S, 4 * st.NS_PER_S]


def test_carriage_returns_do_not_shift_the_times() -> None:
    event = sse(chunk(content="a")).replace(b"\n", b"\r\n")
    parsed = read(event + event, cuts=[len(event)])
    assert parsed.chunk_ns == [0, st.NS_PER_S]


@pytest.mark.parametrize(
    "delta",
    [
        {"reasoning_content": "hm"},
        {"reasoning": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
        {"content": None, "reasoning_content": "hm"},
        {"content": "", "reasoning": "hm"},
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}]},
    ],
)
def test_reasoning_is_kept_apart_and_counts_as_a_token(delta: dict[str, Any]) -> None:
    parsed = read(sse(chunk(**delta), chunk(content="yes"), finish(), "[DONE]"))
    assert ("".join(parsed.reasoning), "".join(parsed.text)) == ("hm", "yes")
    assert len(parsed.chunk_ns) == 2 and len(parsed.answer_ns) == 1


def test_content_as_a_list_of_parts_is_text() -> None:
    parsed = read(
        sse(
            chunk(content=[{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]),
            finish(),
            "[DONE]",
        )
    )
    assert "".join(parsed.text) == "ab"


def test_the_last_usage_counts() -> None:
    first = {**chunk(content="a"), "usage": {"completion_tokens": 1}}
    parsed = read(sse(first, usage(completion=7), "[DONE]"))
    assert parsed.usage is not None and parsed.usage["completion_tokens"] == 7


def test_nothing_is_read_after_done() -> None:
    assert read(sse(chunk(content="a"), "[DONE]", chunk(content="b"))).text == ["a"]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        ("{not json", "bad_json"),
        ("[1]", "wrong_type"),
        ('"text"', "wrong_type"),
        ('{"choices": 5}', "wrong_type"),
        ('{"choices": [{"delta": {"content": 5}}]}', "wrong_type"),
        ('{"type": "message_start", "message": {}}', "wrong_api"),
        ('{"type": "response.created"}', "wrong_api"),
        ("[" * 100_000, "bad_json"),
        ("1" * 5000, "bad_json"),
    ],
)
def test_an_event_of_another_kind_is_a_failure_with_a_name(event: str, kind: str) -> None:
    parsed = read(sse(event, "[DONE]"))
    failure = parsed.failure or parsed.strange
    assert failure is not None and failure.kind == kind


def test_a_chat_answered_in_the_shape_of_completions_is_read_for_what_it_is() -> None:
    events = [
        {"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("Hi", "!")
    ]
    parsed = read(sse(*events, {"choices": [{"text": "", "finish_reason": "length"}]}, "[DONE]"))
    assert ("".join(parsed.text), parsed.finish, len(parsed.chunk_ns)) == ("Hi!", "length", 2)


def test_an_error_object_is_kept() -> None:
    parsed = read(sse(chunk(content="a"), {"error": {"message": "overloaded"}}, "[DONE]"))
    assert parsed.error == {"message": "overloaded"}


def test_half_a_surrogate_pair_is_joined_with_its_other_half() -> None:
    parsed = read(
        b'data: {"choices":[{"delta":{"content":"\\ud83d"}}]}\n\ndata: {"choices":[{"delta":{"content":"\\ude00"}}]}\n\n'
    )
    assert st._whole_text("".join(parsed.text)) == "😀"
    assert st._whole_text("\ud800x") == "\ufffdx"


@pytest.mark.parametrize(
    "oddity",
    [
        {"usage": "many"},
        {"usage": [5]},
        {"created": {"at": "noon"}},
        {"type": 5},
        {"system_fingerprint": float("nan")},
        {"id": "\ud800"},
        {"nested": json.loads("[" * 400 + "]" * 400)},
    ],
)
@pytest.mark.parametrize(
    "choice",
    [
        {"index": "first"},
        {"index": None},
        {"finish_reason": {"type": "stop"}},
        {"logprobs": "none"},
        {"message": 5},
        {"text": ["no"]},
        {"delta": {"content": "a", "reasoning": 5}},
        {"delta": {"content": "a", "reasoning_details": {"0": 1}}},
        {"delta": {"content": "a", "reasoning_details": [5, {"text": 6}]}},
        {"delta": {"content": "a", "tool_calls": 5, "role": ["assistant"]}},
    ],
)
def test_a_wrong_type_in_a_field_that_nobody_needs_costs_nothing(
    choice: dict[str, Any], oddity: dict[str, Any]
) -> None:
    event = {"choices": [{"delta": {"content": "a"}, **choice}, 5], **oddity}
    parsed = read(sse(event, chunk(content="b"), "[DONE]"))
    assert (parsed.text, parsed.failure, parsed.complete) == (["a", "b"], None, True)
    assert len(parsed.chunk_ns) == 2 and parsed.reasoning == []


def test_an_event_of_another_kind_between_those_of_this_api_costs_nothing() -> None:
    parsed = read(sse({"type": "ping"}, chunk(content="a"), {"hello": "world"}, "[DONE]"))
    assert (parsed.text, parsed.failure) == (["a"], None)


def test_several_parts_of_one_event_are_one_chunk_with_one_time() -> None:
    parts = [{"type": "text", "text": text} for text in ("<think>", "hm</think>")]
    parsed = read(sse(chunk(content=parts), chunk(content="yes")), cuts=[10])
    assert len(parsed.text) == len(parsed.answer_ns) == 2
    assert parsed.first_answer_ns == parsed.answer_ns[1]


@settings(max_examples=2000, deadline=None)
@given(
    texts=hs.lists(
        hs.text(min_size=1, max_size=6)
        | hs.sampled_from(['"', "\\", " the", "content", "\n", "ü"]),
        max_size=12,
    )
)
def test_every_text_is_read_as_it_was_sent(
    texts: list[str],
) -> None:
    parsed = read(b"".join(sse(chunk(content=text)) for text in texts))
    assert parsed.text == texts


def test_an_unchanging_finish_reason_is_read_in_every_event() -> None:
    event = {"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}
    parsed = read(sse(event, event))
    assert (parsed.finish, parsed.text) == ("stop", ["a", "a"])


def test_a_think_block_delays_the_answer_but_stays_in_it() -> None:
    texts = ["<think>", "hm", "</think>", "\n", "yes"]
    parsed = read(b"".join(sse(chunk(content=text)) for text in texts), cuts=None)
    parsed.answer_ns = [1, 2, 3, 4, 5]
    assert parsed.first_answer_ns == 5
    result = st.Result(0, "i", "q", answer="".join(texts))
    assert result.answer_text == "\nyes"


def test_an_open_think_block_has_no_answer() -> None:
    assert st.Result(0, "i", "q", answer="<think> and so on").answer_text == ""


def test_the_test_data_is_json() -> None:
    assert json.loads(sse(chunk(content="a"))[6:])["choices"][0]["delta"] == {"content": "a"}
