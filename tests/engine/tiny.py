"""A tiny model with its engine, for whatever an answer is held to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from appliance.bundle import read_description
from appliance.core import Chunk, DoneReason, Request, SamplingParams
from appliance.engine.constrain import Grammars
from appliance.engine.engine import Engine
from appliance.engine.ort import open_backend
from appliance.prompt.tokenizer import Tokenizer
from tests.tiny_model import write_tiny_bundle


class Model:
    """A tiny model of random weights, which left alone says nothing that parses."""

    def __init__(self, folder: Path) -> None:
        bundle = write_tiny_bundle(folder)
        self.tokenizer = Tokenizer.load(folder, bundle)
        self.grammars = Grammars(self.tokenizer, bundle.vocab_size, bundle.eos_tokens)
        self.backend = open_backend(folder, read_description(folder), slots=2, setting="cpu", threads=1)
        self.engine = Engine(self.backend, self.tokenizer, eos=bundle.eos_tokens, chunk_tokens=64, max_waiting=8)

    def answer(self, schema: Mapping[str, Any], **sampling: Any) -> list[Chunk]:
        return self.run("hello", self.grammars.constraint(schema), **sampling)

    def run(self, text: str, constraint: Any, **sampling: Any) -> list[Chunk]:
        """The chunks of an answer to `text`."""
        prompt = tuple(self.tokenizer.encode(text, add_bos=True))
        params = SamplingParams(**{"temperature": 1.0, "seed": 1, "num_predict": 2000, **sampling})
        inbox: SimpleQueue[Chunk | Exception] = SimpleQueue()
        self.engine.submit(Request(prompt, params, 512, constraint=constraint), inbox.put)
        chunks = []
        while True:
            event = inbox.get(timeout=60)
            if isinstance(event, Exception):
                raise event
            chunks.append(event)
            if event.done_reason:
                return chunks

    def text(self, schema: Mapping[str, Any], **sampling: Any) -> str:
        chunks = self.answer(schema, **sampling)
        assert chunks[-1].done_reason is DoneReason.STOP
        return "".join(chunk.text for chunk in chunks)
