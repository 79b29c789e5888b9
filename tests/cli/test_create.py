"""`create`: Modelfiles and the files they name, sent to a scripted server."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Outcome, Server

Run = Callable[..., Outcome]


@pytest.mark.spec(96)
def test_create_sends_the_files_and_the_request(server: Server, appliance: Run, tmp_path: Path) -> None:
    weights = b"GGUF" + bytes(3_000_000)
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    (tmp_path / "tiny.gguf").write_bytes(weights)
    (tmp_path / "Modelfile").write_text(
        'FROM ./tiny.gguf\nSYSTEM """Be\nbrief."""\nPARAMETER temperature 0.5\nPARAMETER stop a\n'
        "PARAMETER stop b\nTEMPLATE {{ .Prompt }}\nLICENSE MIT\nMESSAGE user Hello\n"
    )
    server.says("POST", f"/api/blobs/{digest}", status=201)
    server.says("POST", "/api/create", {"status": "parsing GGUF"}, {"status": "success"})
    outcome = appliance("create", "tiny", "-f", str(tmp_path / "Modelfile"))
    assert outcome.code == 0
    assert outcome.err.splitlines() == [
        "gathering model components",
        "hashing tiny.gguf",
        f"copying file {digest}",
        "parsing GGUF",
        "success",
    ]
    assert [body for method, path, body in server.requests if method == "POST" and "blobs" in path] == [weights]
    assert server.asked("/api/create") == [
        {
            "model": "tiny",
            "files": {"tiny.gguf": digest},
            "template": "{{ .Prompt }}",
            "system": "Be\nbrief.",
            "license": ["MIT"],
            "parameters": {"temperature": 0.5, "stop": ["a", "b"]},
            "messages": [{"role": "user", "content": "Hello"}],
        }
    ]


def test_create_does_not_send_a_file_that_is_there(server: Server, appliance: Run, tmp_path: Path) -> None:
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF")
    (tmp_path / "Modelfile").write_text("FROM tiny.gguf")
    digest = f"sha256:{hashlib.sha256(b'GGUF').hexdigest()}"
    server.says("HEAD", f"/api/blobs/{digest}")
    server.says("POST", "/api/create", {"status": "success"})
    assert appliance("create", "tiny", "-f", str(tmp_path / "Modelfile"), "-q", "q8_0").code == 0
    assert [method for method, path, _ in server.requests if "blobs" in path] == ["HEAD"]
    assert server.asked("/api/create")[0]["quantize"] == "q8_0"


def test_create_from_an_installed_model(server: Server, appliance: Run, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM llama3.2\n")
    server.says("POST", "/api/create", {"status": "success"})
    assert appliance("create", "mario", "-f", str(tmp_path / "Modelfile")).code == 0
    assert server.asked("/api/create") == [{"model": "mario", "from": "llama3.2"}]


def test_create_without_a_modelfile_takes_the_folder(
    server: Server, appliance: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("model-1.safetensors", "config.json", "tokenizer.model", "vocab.txt", "README.md", "other.bin"):
        (folder / name).write_text(name)
    monkeypatch.chdir(folder)
    digests = {
        name: f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        for name in ("model-1.safetensors", "config.json", "tokenizer.model", "vocab.txt")
    }
    for digest in digests.values():
        server.says("HEAD", f"/api/blobs/{digest}")
    server.says("POST", "/api/create", {"status": "success"})
    assert appliance("create", "tiny").code == 0
    assert server.asked("/api/create")[0]["files"] == digests


def test_create_from_one_part_takes_the_others(server: Server, appliance: Run, tmp_path: Path) -> None:
    names = [f"m-{number:05}-of-00002.gguf" for number in (1, 2)]
    for name in (*names, "m-00001-of-00003.gguf", "other.gguf"):
        (tmp_path / name).write_text(name)
    digests = {name: f"sha256:{hashlib.sha256(name.encode()).hexdigest()}" for name in names}
    for digest in digests.values():
        server.says("HEAD", f"/api/blobs/{digest}")
    server.says("POST", "/api/create", {"status": "success"})
    (tmp_path / "Modelfile").write_text(f"FROM ./{names[1]}")
    assert appliance("create", "tiny", "-f", str(tmp_path / "Modelfile")).code == 0
    assert server.asked("/api/create")[0]["files"] == digests


def test_create_refuses_links_out_of_the_folder(server: Server, appliance: Run, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    (folder / "model.safetensors").symlink_to(tmp_path / "secret")
    (tmp_path / "Modelfile").write_text("FROM ./model")
    outcome = appliance("create", "tiny", "-f", str(tmp_path / "Modelfile"))
    assert outcome.code == 1
    assert outcome.err.endswith("Error: insecure path: model.safetensors\n")


def test_create_reports_an_error_in_the_stream(server: Server, appliance: Run, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM llama3.2\n")
    server.says("POST", "/api/create", {"status": "parsing GGUF"}, {"error": "unknown type"})
    outcome = appliance("create", "mario", "-f", str(tmp_path / "Modelfile"))
    assert outcome.code == 1
    assert outcome.err.endswith("parsing GGUF\nError: unknown type\n")


def test_create_with_a_modelfile_that_is_not_there(server: Server, appliance: Run, tmp_path: Path) -> None:
    outcome = appliance("create", "mario", "-f", str(tmp_path / "Nofile"))
    assert outcome == Outcome(1, "", "Error: specified Modelfile wasn't found\n")


def test_create_from_an_empty_folder(
    server: Server, appliance: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = appliance("create", "mario")
    assert outcome.err.endswith("Error: no Modelfile or safetensors files found\n")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with the Modelfile's files; HOME is its parent."""
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def created(server: Server, appliance: Run, modelfile: str | bytes, *flags: str) -> Any:
    """The request that this Modelfile of the present folder makes; every blob is on the server already."""
    Path("Modelfile").write_bytes(modelfile.encode() if isinstance(modelfile, str) else modelfile)
    for file in Path.cwd().parent.rglob("*"):
        if file.is_file():
            server.says("HEAD", f"/api/blobs/sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}")
    server.says("POST", "/api/create", {"status": "success"})
    outcome = appliance("create", "tiny", *flags)
    assert outcome.code == 0, outcome.err
    return server.asked("/api/create")[-1]


@pytest.mark.spec(94)
@pytest.mark.parametrize(
    "modelfile",
    [
        "\ufeffFROM base\r\nSYSTEM Ahoy ☠\r\n".encode(),
        "\ufeffFROM base\nSYSTEM Ahoy ☠\n".encode("utf-16-le"),
        "\ufeffFROM base\r\nSYSTEM Ahoy ☠\r\n".encode("utf-16-be"),
        b'# by hand\n\nfrom base\nSystem "Ahoy \xe2\x98\xa0"',
    ],
)
def test_encodings_and_line_ends(server: Server, appliance: Run, folder: Path, modelfile: bytes) -> None:
    assert created(server, appliance, modelfile) == {"model": "tiny", "from": "base", "system": "Ahoy ☠"}


def test_paths_start_at_the_modelfile_or_at_home(server: Server, appliance: Run, folder: Path) -> None:
    (folder.parent / "up.gguf").write_text("up")
    up = {"up.gguf": f"sha256:{hashlib.sha256(b'up').hexdigest()}"}
    for path in ("../up.gguf", "~/up.gguf", str(folder.parent / "up.gguf")):
        assert created(server, appliance, f"FROM {path}") == {"model": "tiny", "files": up}
    (folder / "deep").mkdir()
    (folder / "deep" / "Other").write_text("FROM ../../up.gguf")
    assert created(server, appliance, "FROM x", "-f", "deep/Other") == {"model": "tiny", "files": up}


def test_an_adapter_and_several_files(server: Server, appliance: Run, folder: Path) -> None:
    for name in ("a.gguf", "b.gguf", "lora/adapter_model.safetensors", "lora/adapter_config.json", "lora/notes.txt"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    digests = {path.name: f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" for path in folder.rglob("*.*")}
    assert created(server, appliance, "FROM a.gguf\nFROM ./b.gguf\nADAPTER lora", "-q", "Q4_K_M") == {
        "model": "tiny",
        "files": {name: digests[name] for name in ("a.gguf", "b.gguf")},
        "adapters": {name: digests[name] for name in ("adapter_model.safetensors", "adapter_config.json")},
        "quantize": "Q4_K_M",
    }


@pytest.mark.spec(94)
@pytest.mark.parametrize(
    ("files", "taken"),
    [
        (["model.safetensors", "2/model-1.safetensors", "a.gguf", "config.json", "2/config.json"], [0, 1, 3, 4]),
        (["consolidated.00.safetensors", "a.gguf", "params.json"], [0, 2]),
        (["a.gguf", "b.gguf", "x.bin", "config.json", "tokenizer.model"], [0, 1]),
        (["pytorch_model.bin", "x.bin", "config.json"], [0, 1, 2]),  # no zip file: any *.bin then
        (["x.bin", "chat_template.jinja", "other.txt"], [0, 1]),
    ],
)
def test_what_is_taken_of_a_folder(
    server: Server, appliance: Run, folder: Path, files: list[str], taken: list[int]
) -> None:
    for name in files:
        Path("m", name).parent.mkdir(exist_ok=True, parents=True)
        Path("m", name).write_text(name)
    assert sorted(created(server, appliance, "FROM m")["files"]) == sorted(files[number] for number in taken)


@pytest.mark.spec(94)
@pytest.mark.parametrize(
    ("modelfile", "message"),
    [
        ("FROM x\nFLY away", '(line 2): command must be one of "from", "license"'),
        ("FROM x\n\nPARAMETER temperature hot", "(line 3): invalid float value [hot]"),
        ("FROM x\nREQUIRES newest", "(line 2): requires must be a valid semver (e.g. 0.14.0)"),
        ("SYSTEM x", "no FROM line"),
        ('FROM x\nSYSTEM """x', "unexpected EOF"),
    ],
)
def test_mistakes_in_a_modelfile_are_found_by_their_line(
    server: Server, appliance: Run, folder: Path, modelfile: str, message: str
) -> None:
    (folder / "Modelfile").write_text(modelfile)
    outcome = appliance("create", "tiny")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith(f"Error: Modelfile: {message}")
    assert server.requests == []


@pytest.mark.parametrize(
    ("modelfile", "message"),
    [
        ("FROM ./typo.gguf", "FROM ./typo.gguf: no such file or folder"),
        ("FROM typo.gguf", "FROM typo.gguf: no such file or folder"),
        ("FROM base\nADAPTER lora", "ADAPTER lora: no such file or folder"),
        ("FROM base\nDRAFT small", "DRAFT models are not supported"),
    ],
)
def test_files_that_are_not_there(server: Server, appliance: Run, folder: Path, modelfile: str, message: str) -> None:
    (folder / "Modelfile").write_text(modelfile)
    assert f"Error: {message}" in appliance("create", "tiny").err
    assert server.requests == []


def test_deprecated_parameters_are_left_out_aloud(server: Server, appliance: Run, folder: Path) -> None:
    (folder / "Modelfile").write_text("FROM base\nPARAMETER mirostat 1")
    server.says("POST", "/api/create", {"status": "success"})
    assert appliance("create", "tiny").err.startswith("warning: parameter mirostat is deprecated\n")
    assert server.asked("/api/create") == [{"model": "tiny", "from": "base"}]


@pytest.mark.parametrize("flags", [("--experimental",), ("--draft-quantize", "Q8_0")])
def test_flags_without_a_meaning_here_are_refused(
    server: Server, appliance: Run, folder: Path, flags: tuple[str, ...]
) -> None:
    outcome = appliance("create", "tiny", *flags)
    assert outcome.code == 1
    assert outcome.err.startswith(f"Error: {flags[0]}")
