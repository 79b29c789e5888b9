"""The benchmark suite: its pure parts, and one trial of its simplest scenario."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from xml.etree import ElementTree

import pytest

from scripts.bench.__main__ import parse
from scripts.bench.client import Exchange, dechunk, read, replay
from scripts.bench.core import LLAMA, OURS, SENTENCE_TRANSFORMERS, TRIAL, Metric, Round
from scripts.bench.crowd import gaps_within, summary
from scripts.bench.dialects import Ask, Ollama, OpenAI, user
from scripts.bench.documents import INTEGERS, STRINGS, valid
from scripts.bench.embed import over_http, sentences
from scripts.bench.prompts import Prompts
from scripts.bench.scenarios import SCENARIOS
from scripts.bench.start import cached_share, warm
from scripts.bench.stats import lines, median_ratio, percentile, spread
from scripts.bench.svg import advantage, picture, tick_step
from scripts.bench.table import table
from tests.minilm import minilm_folder
from tests.tiny_encoder import random_bert, write_gguf

ROOT = Path(__file__).parents[1]
SPEED = Metric("decode", "tokens/s", "more")
LOAD = Metric("load", "s", "less", 2)
FACT = Metric("tokens", "")
SVG = "{http://www.w3.org/2000/svg}"


def rounds() -> list[Round]:
    """Three rounds in which the machine slows down for both; the last lacks one figure of the peer."""
    ours = [(300.0, 0.5), (200.0, 0.6), (100.0, 0.4)]
    theirs = [(100.0, 0.25), (100.0, 0.2)]
    result: list[Round] = []
    for at, (speed, load) in enumerate(ours):
        peer = {"decode": theirs[at][0], "load": theirs[at][1]} if at < 2 else {"load": 0.1}
        result.append({"1 <client> & more": {OURS: {"decode": speed, "load": load, "tokens": 8}, LLAMA: peer}})
    return result


def answer_of(*lines: bytes) -> Exchange:
    """An exchange whose lines arrived a second apart, each in a chunk of its own, cut at awkward places."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(line), line) for line in lines) + b"0\r\n\r\n"
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body
    exchange = Exchange.__new__(Exchange)  # without the event loop that sending needs
    exchange.sent = 0.0
    exchange.arrivals = [(float(at // 10), whole[at : at + 10]) for at in range(0, len(whole), 10)]
    return exchange


def test_percentiles_are_interpolated() -> None:
    assert percentile([4, 1, 3, 2], 0.5) == 2.5
    assert percentile([7], 0.95) == 7
    assert percentile([0, 100], 0.95) == 95
    assert (spread([3, 1, 2]).median, spread([3, 1, 2]).low, spread([3, 1, 2]).high) == (2, 1, 3)
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    assert median_ratio([(1, 1), (10, 2), (9, 3)]) == 3  # the ratio of the medians would be 4.5
    assert median_ratio([(1, 0)]) is None


def test_lines_pair_what_ran_in_the_same_round() -> None:
    decode, load, tokens = lines([SPEED, LOAD, FACT, Metric("absent", "s", "less")], rounds())
    assert decode.spreads[OURS].median == 200
    assert decode.ratios == {LLAMA: 2.5}  # of 3 and 2; the third round has no pair
    assert load.ratios == {LLAMA: pytest.approx(3)}
    assert tokens.ratios == {}
    assert list(tokens.spreads) == [OURS]


def test_table() -> None:
    text = table(lines([SPEED, LOAD, FACT], rounds())).splitlines()
    assert len({len(row) for row in text}) == 1
    assert text[0].split("|")[2].strip() == OURS
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in text]
    assert cells[2] == ["1 <client> & more: decode, tokens/s", "200 (100–300)", "100", "2.50"]
    assert cells[3][1:] == ["0.50 (0.40–0.60)", "0.20 (0.10–0.25)", "3.00"]
    assert cells[4] == ["1 <client> & more: tokens", "8", "", ""]


@pytest.mark.parametrize("drawn", [{}, {"some": "decode"}])
def test_the_picture_is_well_formed(drawn: dict[str, str]) -> None:
    found = lines([SPEED, LOAD, FACT], rounds())
    root = ElementTree.fromstring(picture("a < b & c", {"some": found}, drawn))
    texts = [element.text for element in root.iter(f"{SVG}text")]
    assert "a < b & c" in texts
    if drawn:
        assert len(list(root.iter(f"{SVG}polyline"))) == 2
        assert {OURS, LLAMA} <= set(texts)
    else:
        assert len(list(root.iter(f"{SVG}rect"))) == 2
        assert {"2.50", "0.33"} <= set(texts)  # a load three times as long is a third as good
    bottom = float(root.attrib["viewBox"].split()[3])
    assert all(float(element.attrib["y"]) < bottom for element in root.iter(f"{SVG}text"))


def test_advantage_turns_what_should_be_small_around() -> None:
    decode, load, _ = lines([SPEED, LOAD, FACT], rounds())
    assert advantage(decode, LLAMA) == 2.5
    assert advantage(load, LLAMA) == pytest.approx(1 / 3)


@pytest.mark.parametrize("highest", [0.7, 1, 9.9, 205, 1748])
def test_ticks_are_few(highest: float) -> None:
    assert 4 <= highest / tick_step(highest) <= 10


def test_arguments() -> None:
    args = parse(["depth", "single", "depth", "--rounds", "2", "--kv", "q8_0", "--recipe", "fp32"])
    assert (args.scenarios, args.rounds, args.kv, args.recipe) == (["depth", "single"], 2, "q8_0", "fp32")
    assert parse([]).scenarios == [name for name in SCENARIOS if name != "embed"]


def test_the_encoder_has_arguments_of_its_own(tmp_path: Path) -> None:
    args = parse(["--embed-model", str(tmp_path), "--st-python", "python"])
    assert (args.scenarios, args.embed_recipe, args.st_model) == (list(SCENARIOS), "int8", tmp_path)
    args = parse(["embed", "--embed-model", __file__, "--st-python", "python", "--st-model", str(tmp_path)])
    assert (args.scenarios, args.st_model) == (["embed"], tmp_path)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["speed"], "no scenario 'speed'; there are single, depth"),
        (["--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["--model", "/nowhere.gguf"], "/nowhere.gguf does not exist"),
        (["--llama-model", __file__], "--llama-model needs --llama"),
        (["--llama", str(Path(__file__).parent)], "there is no llama-bench in"),
        (["--recipe", "best"], "invalid choice: 'best'"),
        (["embed"], "embed needs --embed-model"),
        (["--embed-gguf", __file__], "--embed-gguf needs --llama"),
        (["--st-python", "python"], "--st-python needs --embed-model"),
        (["--st-model", __file__], "--st-model needs --st-python"),
        (["--embed-model", __file__, "--st-python", "python"], "where --embed-model is no folder"),
    ],
)
def test_wrong_arguments_are_named(arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(arguments)
    assert complaint in capsys.readouterr().err


def test_every_event_has_the_time_at_which_its_last_byte_came() -> None:
    one, two = b'{"message": {"content": "Hel"}}\n', b'{"message": {"content": "lo"}}\n'
    last = b'{"done": true, "prompt_eval_count": 5, "eval_count": 2, "prompt_eval_duration": 3000000}\n'
    exchange = answer_of(one, two[:7], two[7:], last)
    answer = read(exchange, Ollama())
    assert (answer.text, answer.prompt_tokens, answer.tokens, answer.prefill_s) == ("Hello", 5, 2, 0.003)
    sent = b"".join(data for _, data in exchange.arrivals)
    ends = [sent.index(two[7:]) - 8, sent.index(two[7:]) + len(two[7:])]
    assert answer.pieces[1] == pytest.approx(ends[1] // 10, abs=1)
    assert answer.pieces[0] < answer.pieces[1] < answer.end
    assert answer.gaps_s == [answer.pieces[1] - answer.pieces[0]]
    assert answer.first_s == answer.pieces[0]


def test_server_sent_events_and_their_usage() -> None:
    exchange = answer_of(
        b'data: {"choices": [{"delta": {"role": "assistant", "content": null}}]}\n\n',
        b'data: {"choices": [{"delta": {"content": "Hi"}}]}\n\n',
        b'data: {"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 1}, "timings": {"prompt_ms":2}}\n\n',
        b"data: [DONE]\n\n",
    )
    answer = read(exchange, OpenAI())
    assert (answer.text, answer.prompt_tokens, answer.tokens, answer.prefill_s) == ("Hi", 9, 1, 0.002)


@pytest.mark.parametrize(
    ("lines_", "complaint"),
    [
        ([b'{"error": "out of luck"}\n'], "out of luck"),
        ([b'{"message": {"content": "Hel"}}\n'], "without an end"),
    ],
)
def test_a_bad_answer_is_an_error(lines_: list[bytes], complaint: str) -> None:
    with pytest.raises(RuntimeError, match=complaint):
        read(answer_of(*lines_), Ollama())


def test_the_first_token_may_be_the_end() -> None:
    answer = read(answer_of(b'{"done": true, "prompt_eval_count": 5, "eval_count": 1}\n'), Ollama())
    assert (answer.text, answer.prompt_tokens, answer.first_s) == ("", 5, answer.end)


def test_a_refusal_is_an_error() -> None:
    exchange = answer_of(b"")
    exchange.arrivals = [(0.0, b"HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy")]
    with pytest.raises(RuntimeError, match=r"answered 503.*busy"):
        read(exchange, Ollama())


def test_a_body_without_chunks() -> None:
    head, body = b"HTTP/1.1 200 OK\r\n\r\n", b'{"done": false}\n{"done": true}'
    assert replay([(1.0, head), (2.0, body[:20]), (3.0, body[20:])]) == (
        200,
        [(2.0, {"done": False}), (3.0, {"done": True})],
    )
    assert replay([]) == (0, [])


def test_a_chunk_that_is_not_whole_waits() -> None:
    assert dechunk(b"3\r\nabc\r\n4\r\nde") == (b"abc", b"4\r\nde")
    assert dechunk(b"3;x=y\r\nabc\r\n") == (b"abc", b"")
    assert dechunk(b"3\r\nabc") == (b"", b"3\r\nabc")


def test_both_dialects_ask_for_the_same() -> None:
    ask = Ask((user("hello"),), 7, seed=3, temperature=0.5, schema={"type": "object"})
    ollama, openai = Ollama().body(ask), OpenAI().body(ask)
    assert ollama["messages"] == openai["messages"] == [{"role": "user", "content": "hello"}]
    assert ollama["options"].pop("num_predict") == openai["max_tokens"] == 7
    assert ollama["options"].items() <= openai.items()
    assert ollama["format"] == openai["response_format"]["json_schema"]["schema"]


def test_figures_of_a_crowd() -> None:
    line = b'{"message": {"content": "x"}}\n'
    done = b'{"done": true, "prompt_eval_count": 5, "eval_count": 4}\n'
    answer = read(answer_of(line, line, line, line, done), Ollama())
    figures = summary([answer, answer])
    assert figures["tokens in an answer"] == 4
    assert figures["total"] == pytest.approx(8 / answer.end)
    assert figures["first token, median"] == answer.first_s * 1e3
    assert gaps_within(answer, answer.pieces[1] + 0.5, answer.pieces[2] - 0.5) == [answer.gaps_s[1]]
    assert gaps_within(answer, answer.pieces[1] + 0.5, answer.pieces[3], whole=True) == [answer.gaps_s[2]]


def test_prompts_are_fitted_to_the_server_and_never_the_same() -> None:
    prompts = Prompts(seed=1)
    prompts.calibrate(200, lambda message: 31 + len(message["content"].split()))
    assert abs(len(prompts.of(200).split()) + 31 - 200) <= 6
    assert prompts.of(200).split()[:4] != prompts.of(200).split()[:4]
    with pytest.raises(RuntimeError, match="no prompt of 100 tokens"):
        prompts.calibrate(100, lambda message: 7000)


def test_documents_are_judged() -> None:
    good = dict.fromkeys(INTEGERS, 1) | dict.fromkeys(STRINGS, "x" * 20)

    def judged(document: object) -> bool:
        line = json.dumps({"message": {"content": json.dumps(document)}}).encode() + b"\n"
        return valid(read(answer_of(line, b'{"done": true, "prompt_eval_count": 1, "eval_count": 1}\n'), Ollama()))

    assert judged(good)
    assert not judged(good | {"name": "x" * 21})
    assert not judged(good | {"age": 1.5})
    assert not judged(good | {"age": True})
    assert not judged(good | {"more": 1})
    assert not judged([])


def test_a_file_just_read_is_in_the_page_cache(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100_000)
    warm([file])
    assert cached_share([file]) == 1


def test_texts_to_embed_are_the_same_every_time() -> None:
    texts = sentences(300)
    lengths = [len(text.split()) for text in texts]
    assert texts == sentences(300)
    assert len(set(texts)) == 300
    assert 10 <= min(lengths) < 20
    assert 190 < max(lengths) <= 200


@contextmanager
def answering(answer: Callable[[list[str]], tuple[int, object]]) -> Iterator[tuple[str, list[list[str]]]]:
    """The address of a server that answers embedding requests, and the inputs that it has been given."""
    asked: list[list[str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body["input"])
            status, content = answer(body["input"]) if self.path == "/v1/embeddings" else (404, "")
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(content).encode())

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def test_llama_server_is_asked_for_every_text_in_batches_after_a_warm_up() -> None:
    texts = sentences(70)
    with answering(lambda given: (200, {"data": [{"embedding": [0.0]} for _ in given]})) as (url, asked):
        assert over_http(url, texts)["sentences/s"] > 0
    assert asked == [texts[:32], texts[:32], texts[32:64], texts[64:]]


@pytest.mark.parametrize(
    ("status", "content", "complaint"),
    [
        (400, {"error": "input is too large"}, "answered 400.*too large"),
        (200, {"data": [{}]}, "1 embeddings to 2 texts"),
    ],
)
def test_embeddings_that_are_missing_are_an_error(status: int, content: object, complaint: str) -> None:
    with answering(lambda _: (status, content)) as (url, _), pytest.raises(RuntimeError, match=complaint):
        over_http(url, sentences(2))


def suite(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A trial of the suite in one round."""
    command = [sys.executable, "-m", "scripts.bench", "--trial", "--rounds", "1", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=240)


def test_embed_runs_on_a_gguf_file_and_cuts_at_its_context(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "tiny.gguf", "bert", random_bert(), heads=4)
    report = tmp_path / "report.json"
    done = suite(tmp_path, "embed", "--embed-model", str(model), "--embed-recipe", "fp32", "--json", str(report))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("tiny.gguf, fp32; ")
    facts = json.loads(report.read_text())
    (only,) = facts["scenarios"]["embed"]["rounds"]
    assert only[""].keys() == {OURS}
    assert only[""][OURS]["sentences/s"] > 0
    assert facts["settings"]["embed_recipe"] == "fp32"
    assert "recipe" not in facts["settings"]


@pytest.mark.slow
def test_embed_runs_beside_sentence_transformers(tmp_path: Path) -> None:
    folder = minilm_folder()
    done = suite(tmp_path, "embed", "--embed-model", str(folder), "--st-python", sys.executable)
    assert done.returncode == 0, done.stderr
    head, _, row = done.stdout.splitlines()[-3:]
    assert [cell.strip() for cell in head.split("|")[2:4]] == [OURS, SENTENCE_TRANSFORMERS]
    assert all(float(cell) > 0 for cell in row.split("|")[2:4])


@pytest.mark.slow
def test_single_runs(smollm2_gguf: Path, tmp_path: Path) -> None:
    report, drawing = tmp_path / "report.json", tmp_path / "report.svg"
    done = suite(tmp_path, "single", "--model", str(smollm2_gguf), "--json", str(report), "--svg", str(drawing))
    assert done.returncode == 0, done.stderr
    assert "| decode, tokens/s" in done.stdout
    facts = json.loads(report.read_text())
    (only,) = facts["scenarios"]["single"]["rounds"]
    assert set(only[""][OURS]) == {"decode", "load", "peak memory", *(f"prefill {each}" for each in TRIAL.prefills)}
    assert all(figure > 0 for figure in only[""][OURS].values())
    assert facts["machine"]["cpu"]
    ElementTree.fromstring(drawing.read_text())
