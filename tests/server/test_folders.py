"""A Hugging Face folder and a split GGUF, from their upload to an answer, through the official client."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest

from appliance.store.hugging_face import folder_files
from tests.server.daemon import Server
from tests.tiny_folder import in_pairs, tiny_weights, write_tiny_folder
from tests.tiny_model import write_tiny_gguf

PROMPTS = ("hello the hello", "in the", "a hello in", "3 + 4", "The end", "x")
GREEDY = {"num_predict": 16, "temperature": 0}
EQUAL = {"recipe": "fp32"}  # other recipes round, and a random model's first choices are close


@pytest.fixture
def client(tiny_server: Server) -> Iterator[ollama.Client]:
    client = ollama.Client(host=tiny_server.url, timeout=60)
    yield client
    client._client.close()


def create(client: ollama.Client, name: str, files: dict[str, Path]) -> list[str]:
    digests = {name: client.create_blob(path) for name, path in files.items()}
    steps = client.create(name, files=digests, parameters=EQUAL, stream=True)
    return [str(step.status) for step in steps]


def answers(client: ollama.Client, name: str) -> list[str]:
    texts = [client.generate(name, prompt, options=GREEDY).response for prompt in PROMPTS]
    client.generate(name, "", keep_alive=0)
    return texts


@pytest.mark.spec(111)
def test_every_form_of_a_model_answers_alike(client: ollama.Client, tmp_path: Path) -> None:
    whole = write_tiny_gguf(tmp_path / "whole.gguf", tensors=in_pairs(tiny_weights()))
    first = write_tiny_gguf(tmp_path / "parts.gguf", tensors=in_pairs(tiny_weights()), split_tensors=8)
    folder = write_tiny_folder(tmp_path / "hf", shards=2)
    create(client, "whole", {"m.gguf": whole})
    create(client, "parts", {path.name: path for path in first.parent.glob("parts-*.gguf")})
    statuses = create(client, "folder", folder_files(folder))
    assert "converting model" in statuses
    assert statuses[-1] == "success"
    expected = answers(client, "whole")
    assert sum(map(len, expected)) > 3 * len(PROMPTS)
    assert answers(client, "parts") == expected
    assert answers(client, "folder") == expected

    client.copy("folder", "copy")
    client.delete("folder")
    assert answers(client, "copy") == expected
    shown = client.show("copy")
    assert shown.details
    assert (shown.details.format, shown.details.family) == ("safetensors", "llama")
    assert (shown.details.quantization_level, shown.capabilities) == ("F32", ["completion"])
    for name in ("copy", "whole", "parts"):
        client.delete(name)


def test_a_folder_that_cannot_be_computed_is_refused_by_name(client: ollama.Client, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "hf", config={"new_trick": 1})
    with pytest.raises(ollama.ResponseError, match=r"config\.json: new_trick = 1 is not supported"):
        create(client, "odd", folder_files(folder))
    assert not any(str(model.model).startswith("odd") for model in client.list().models)
