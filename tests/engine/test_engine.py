"""The loop on a scripted backend: admission, chunked prefill, joint decode, reuse, shift, cancel, failure."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable

import pytest

from appliance.core import DoneReason
from appliance.engine.engine import Engine
from appliance.errors import EngineStopped, InvalidRequest, PromptTooLong, RequestCancelled, ServerBusy
from tests.engine.conftest import Client
from tests.engine.fakes import EOS, ScriptedBackend

Start = Callable[..., Engine]


def alphabet(cache: list[int]) -> int:
    """After any letter comes the next one; after z the end."""
    return EOS if cache[-1] == ord("z") else cache[-1] + 1


def upwards(cache: list[int]) -> int:
    return 65 + (cache[-1] - 64) % 26


def test_continues_until_the_end_token(start: Start) -> None:
    chunks = Client(start(ScriptedBackend(alphabet)), "vw").chunks()
    assert "".join(chunk.text for chunk in chunks) == "xyz"
    assert chunks[-1].done_reason is DoneReason.STOP
    usage = chunks[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.generated_tokens, usage.cached_tokens) == (2, 4, 0)


def test_num_predict_bounds_the_answer(start: Start) -> None:
    engine = start(ScriptedBackend(alphabet))
    chunks = Client(engine, "a", num_predict=3).chunks()
    assert "".join(chunk.text for chunk in chunks) == "bcd"
    assert chunks[-1].done_reason is DoneReason.LENGTH
    assert Client(engine, "a", num_predict=0).text() == ""


def test_stop_string_is_cut_and_held_back(start: Start) -> None:
    chunks = Client(start(ScriptedBackend(alphabet)), "a", stop=("ef",)).chunks()
    assert [chunk.text for chunk in chunks if chunk.text] == ["b", "c", "d"]
    assert chunks[-1].done_reason is DoneReason.STOP


def test_held_back_text_is_given_out_at_the_end(start: Start) -> None:
    assert Client(start(ScriptedBackend(alphabet)), "w", stop=("yzzz",)).text() == "xyz"


def test_prompts_are_prefilled_in_chunks(start: Start) -> None:
    backend = ScriptedBackend(alphabet)
    Client(start(backend, chunk_tokens=4), "abcdefghij", num_predict=1).chunks()
    assert [len(row.tokens) for run in backend.runs for row in run] == [4, 4, 2]
    assert [row.logits for run in backend.runs for row in run] == [0, 0, 1]


def test_a_prompt_never_ends_in_a_chunk_of_one(start: Start) -> None:
    backend = ScriptedBackend(alphabet)
    Client(start(backend, chunk_tokens=4), "abcdefghi", num_predict=1).chunks()
    assert [len(row.tokens) for run in backend.runs for row in run] == [4, 3, 2]


def test_a_long_prompt_does_not_stop_a_stream(start: Start) -> None:
    gate = threading.Semaphore(0)
    backend = ScriptedBackend(upwards, gate=gate)
    engine = start(backend, chunk_tokens=4)
    first = Client(engine, "A", num_predict=20)
    gate.release(3)
    while len(backend.runs) < 3:
        pass
    second = Client(engine, "B" * 24, num_predict=2)
    gate.release(1000)
    first.chunks()
    second.chunks()
    widths = [[len(row.tokens) for row in run] for run in backend.runs]
    chunks = [at for at, run in enumerate(widths) if run == [4]]
    assert len(chunks) >= 5
    assert all(later - earlier == 2 for earlier, later in itertools.pairwise(chunks[:5])), widths


def test_requests_decode_together(start: Start) -> None:
    gate = threading.Semaphore(0)
    backend = ScriptedBackend(upwards, slots=3, gate=gate)
    engine = start(backend)
    clients = [Client(engine, letter, num_predict=6) for letter in "ADG"]
    gate.release(1000)
    assert [client.text() for client in clients] == ["BCDEFG", "EFGHIJ", "HIJKLM"]
    assert max(len(run) for run in backend.runs) == 3


def test_the_longest_common_prefix_is_reused(start: Start) -> None:
    backend = ScriptedBackend(alphabet)
    engine = start(backend)
    Client(engine, "abcdefgh", num_predict=1).chunks()
    usage = Client(engine, "abcdexyz", num_predict=1).chunks()[-1].usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.cached_tokens) == (8, 5)
    assert backend.runs[-1][0].tokens == tuple(map(ord, "xyz"))
    again = Client(engine, "abcdexyz", num_predict=1).chunks()[-1].usage
    assert again is not None
    assert again.cached_tokens == 6, "the last two tokens are run again, for logits that do not depend on reuse"


def test_another_conversation_takes_an_empty_slot_before_a_used_one(start: Start) -> None:
    backend = ScriptedBackend(alphabet)
    engine = start(backend)
    Client(engine, "abcdefgh", num_predict=1).chunks()
    Client(engine, "qrst", num_predict=1).chunks()
    usage = Client(engine, "abcdefgh", num_predict=1).chunks()[-1].usage
    assert usage is not None
    assert usage.cached_tokens == 6


def test_a_full_context_shifts_and_goes_on(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    backend = ScriptedBackend(upwards)
    chunks = Client(start(backend), "ABCD", num_ctx=8, num_keep=2, num_predict=20).chunks()
    assert "".join(chunk.text for chunk in chunks) == "EFGHIJKLMNOPQRSTUVWX"
    shifted = next(run[0] for run in backend.runs[5:] if len(run[0].tokens) > 1)
    assert shifted.past == 2, "the first num_keep tokens stay in the cache"
    assert "a full context of 8 tokens forgets 3 behind its first 2" in caplog.messages
    assert max(row.past + len(row.tokens) for run in backend.runs for row in run) <= 8


def test_a_full_context_without_shift_ends_with_length(start: Start) -> None:
    chunks = Client(start(ScriptedBackend(upwards)), "ABCD", num_ctx=8, shift=False).chunks()
    assert "".join(chunk.text for chunk in chunks) == "EFGHI"
    assert chunks[-1].done_reason is DoneReason.LENGTH


def test_a_prompt_over_the_context_is_refused_with_numbers(start: Start) -> None:
    with pytest.raises(PromptTooLong, match="9 tokens exceed the limit of 8"):
        Client(start(ScriptedBackend(upwards)), "A" * 9, num_ctx=8)


def test_a_prompt_without_tokens_is_refused(start: Start) -> None:
    with pytest.raises(InvalidRequest, match="the prompt has no tokens"):
        Client(start(ScriptedBackend(upwards)), "")


@pytest.mark.parametrize("running", [True, False])
def test_cancel_frees_the_slot_while_running_and_while_waiting(start: Start, running: bool) -> None:
    gate = threading.Semaphore(0)
    engine = start(ScriptedBackend(upwards, slots=1, gate=gate))
    first, second = Client(engine, "A"), Client(engine, "M", num_predict=2)
    gone = first if running else second
    gone.ticket.cancel()
    gate.release(10_000)
    with pytest.raises(RequestCancelled):
        gone.chunks()
    assert (second if running else first).text()
    gone.ticket.cancel()  # too late is no error
    assert Client(engine, "A", num_predict=1).text() == "B"
    assert engine.free_slots == 1


def test_the_queue_is_bounded(start: Start) -> None:
    gate = threading.Semaphore(0)
    backend = ScriptedBackend(upwards, slots=1, gate=gate)
    engine = start(backend, max_waiting=2)
    clients = [Client(engine, "A", num_predict=2)]
    while engine.free_slots:
        pass
    clients += [Client(engine, "A", num_predict=2) for _ in range(2)]
    with pytest.raises(ServerBusy):
        Client(engine, "A", num_predict=2)
    gate.release(100)
    assert [client.text() for client in clients] == ["BC"] * 3


def test_a_request_that_waits_is_told_its_place_in_the_log(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    gate = threading.Semaphore(0)
    engine = start(ScriptedBackend(upwards, slots=1, gate=gate))
    clients = [Client(engine, "A", num_predict=2)]
    while engine.free_slots:
        pass
    assert "queued" not in caplog.text
    clients += [Client(engine, "A", num_predict=2) for _ in range(2)]
    assert "queued at position 1" in caplog.text
    assert "queued at position 2" in caplog.text
    assert engine.stats().waiting == 2
    gate.release(100)
    assert [client.text() for client in clients] == ["BC"] * 3


def test_stats_count_slots_and_tokens(start: Start) -> None:
    engine = start(ScriptedBackend(alphabet, slots=3))
    Client(engine, "abcdefgh", num_predict=3).chunks()
    Client(engine, "abcdefgh", num_predict=2).chunks()
    stats = engine.stats()
    assert (stats.slots, stats.busy_slots, stats.waiting) == (3, 0, 0)
    assert (stats.prompt_tokens, stats.cached_tokens, stats.generated_tokens) == (16, 6, 5)
    assert stats.evaluated_tokens == 16 - 6 + 5 - 2, "all but the two last tokens, which were sampled and never run"
    assert stats.prefix_cache_bytes == 0
    assert set(stats.prefix_evictions.values()) == {0}


def test_a_failing_run_ends_every_request_and_the_engine(start: Start) -> None:
    def broken(cache: list[int]) -> int:
        raise RuntimeError("out of memory")

    backend = ScriptedBackend(broken)
    engine = start(backend)
    client = Client(engine, "A")
    with pytest.raises(EngineStopped, match="RuntimeError"):
        client.chunks()
    engine.close()
    assert backend.closed
    assert not engine.alive
    with pytest.raises(EngineStopped):
        Client(engine, "A")


def test_close_ends_requests(start: Start) -> None:
    gate = threading.Semaphore(1)
    engine = start(ScriptedBackend(upwards, gate=gate))
    client = Client(engine, "A")
    closing = threading.Thread(target=engine.close)
    closing.start()
    gate.release(1000)
    with pytest.raises(EngineStopped, match="unloaded"):
        client.chunks()
    closing.join()


def test_logprobs_come_with_every_token(start: Start) -> None:
    chunks = Client(start(ScriptedBackend(alphabet)), "v", logprobs=True, top_logprobs=3).chunks()
    entries = [entry for chunk in chunks for entry in chunk.logprobs]
    assert [entry.token for entry in entries] == ["w", "x", "y", "z"]
    for entry in entries:
        assert entry.logprob <= 0
        assert entry.top[0].token == entry.token
        assert len(entry.top) == 3
