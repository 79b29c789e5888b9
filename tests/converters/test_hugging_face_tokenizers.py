"""Tokenizers of Hugging Face folders, token by token against transformers' AutoTokenizer on the same folder."""

from __future__ import annotations

import json
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, processors

from appliance.errors import ModelFileError, UnsupportedModel
from appliance.store.hugging_face import folder_files
from converters.tokenizers import Vocabulary, read_vocabulary
from tests.converters.test_unigram import plain
from tests.converters.test_wordpiece import SPECIAL
from tests.tiny_vocabulary import (
    ALPHABET,
    ENGLISH,
    MULTILINGUAL,
    SAMPLES,
    byte_level,
    train_sentencepiece,
    transformers,
)

VOCAB_SIZE = 4096


def vocabulary(folder: Path, vocab_size: int = VOCAB_SIZE, template: str = "") -> Vocabulary:
    metadata = {"general.architecture": "llama", "llama.vocab_size": vocab_size, "tokenizer.chat_template": template}
    return read_vocabulary(metadata, folder_files(folder))


def original(folder: Path, **options: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return transformers().AutoTokenizer.from_pretrained(str(folder), **options)


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")


def change_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(folder / "tokenizer_config.json", config | changes)


def assert_same(folder: Path, texts: list[str] = SAMPLES, **options: Any) -> None:
    ours, theirs = vocabulary(folder).tokenizer, original(folder, **options)
    for text in texts:
        assert ours.encode(text).ids == theirs.encode(text)
    pair = ours.encode("a question", "an answer")
    expected = theirs("a question", "an answer", return_token_type_ids=True)
    assert pair.ids == expected["input_ids"]
    if theirs.is_fast and "Llama" not in type(theirs).__name__:  # no decoder reads types
        assert pair.type_ids == expected["token_type_ids"]


# ---- folders as transformers writes them


def llama3(folder: Path) -> None:
    """Byte-level with a BOS put in front by the post-processor, as Llama 3 has it."""
    metadata = byte_level()
    tokenizer = read_vocabulary({**metadata, "tokenizer.ggml.pre": "llama-bpe"}).tokenizer
    bos = len(metadata["tokenizer.ggml.tokens"]) - 3
    template = processors.TemplateProcessing(
        single="<|endoftext|> $A", pair="<|endoftext|> $A <|endoftext|>:1 $B:1", special_tokens=[("<|endoftext|>", bos)]
    )
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    fast = transformers().PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|endoftext|>", eos_token="<|im_end|>"
    )
    fast.save_pretrained(str(folder))


def qwen2(folder: Path) -> None:
    metadata = byte_level()
    tokenizer = read_vocabulary({**metadata, "tokenizer.ggml.pre": "qwen2"}).tokenizer
    transformers().Qwen2TokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(str(folder))


def llama2(folder: Path) -> None:
    file = train_sentencepiece(folder / "spm", model_type="bpe", byte_fallback=True, normalization_rule_name="identity")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers().LlamaTokenizerFast(str(file)).save_pretrained(str(folder))


def bert(folder: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    trainer = BertWordPieceTokenizer(lowercase=True)
    trainer.train_from_iterator(
        [ENGLISH, MULTILINGUAL * 3], vocab_size=700, show_progress=False, special_tokens=list(SPECIAL)
    )
    vocab = json.loads(trainer.to_str())["model"]["vocab"]
    (folder / "vocab.txt").write_text("\n".join(sorted(vocab, key=vocab.get)) + "\n", encoding="utf-8")
    transformers().BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(str(folder))


def xlm_roberta(folder: Path) -> None:
    file = train_sentencepiece(folder / "spm", model_type="unigram", vocab_size=500)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers().XLMRobertaTokenizerFast(str(file)).save_pretrained(str(folder))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One folder of each kind, to copy and change."""
    found = {}
    for make in (llama3, qwen2, llama2, bert, xlm_roberta):
        found[make.__name__] = tmp_path_factory.mktemp(make.__name__)
        make(found[make.__name__])
    return found


@pytest.fixture
def copied(folders: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    return lambda name: Path(shutil.copytree(folders[name], tmp_path / name))


@pytest.mark.parametrize("name", ["llama3", "qwen2", "llama2", "bert", "xlm_roberta"])
def test_a_folder_is_read_as_by_transformers(folders: dict[str, Path], name: str) -> None:
    assert_same(folders[name])


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, tuple[Tokenizer, Any]]:
    """Each kind's tokenizer, ours and the original."""
    return {name: (vocabulary(folder).tokenizer, original(folder)) for name, folder in folders.items()}


@settings(deadline=None, max_examples=60)
@given(text=st.text(alphabet=ALPHABET, max_size=40))
def test_any_text_is_read_as_by_transformers(loaded: dict[str, tuple[Tokenizer, Any]], text: str) -> None:
    for name, (ours, theirs) in loaded.items():
        assert ours.encode(text).ids == theirs.encode(text), name


# ---- what is around a text


def test_a_decoders_bos_is_told_from_its_post_processor(folders: dict[str, Path]) -> None:
    bos = len(byte_level()["tokenizer.ggml.tokens"]) - 3
    found = vocabulary(folders["llama3"])
    assert (found.bos_token, found.add_bos, found.eos_tokens) == (bos, True, (bos + 2, bos))
    found.check_decoder()
    found = vocabulary(folders["qwen2"])
    assert (found.bos_token, found.add_bos, found.eos_tokens[0]) == (None, False, bos + 2)
    found.check_decoder()


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, True), (False, True), (None, None)])
def test_llamas_class_says_itself_what_is_around(
    copied: Callable[[str], Path], bos: bool | None, eos: bool | None
) -> None:
    folder = copied("llama2")
    change_config(folder, add_bos_token=bos if bos is not None else True, add_eos_token=bool(eos))
    assert_same(folder)
    found = vocabulary(folder)
    assert found.add_bos is (bos is not False)
    assert found.frame.after == ((2,) if eos else ())


def test_encoders_have_their_frame(folders: dict[str, Path]) -> None:
    found = vocabulary(folders["bert"])
    assert (found.frame.before, found.frame.between, found.frame.after) == ((2,), (3,), (3,))
    assert found.frame.second_type == 1
    found = vocabulary(folders["xlm_roberta"])
    assert (found.frame.before, found.frame.between, found.frame.after) == ((0,), (2, 2), (2,))
    with pytest.raises(UnsupportedModel, match="special tokens around every text"):
        found.check_decoder()


def test_a_length_that_the_file_brings_is_left_out(copied: Callable[[str], Path]) -> None:
    folder = copied("bert")
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(4)
    tokenizer.enable_padding(length=4)
    tokenizer.save(str(folder / "tokenizer.json"))
    assert len(vocabulary(folder).tokenizer.encode("a b c d e").ids) == 7
    assert len(vocabulary(folder).tokenizer.encode("a").ids) == 3


# ---- what the settings change


@pytest.mark.parametrize("changes", [{"do_lower_case": False}, {"strip_accents": False}, {"do_lower_case": True}])
def test_berts_settings_go_before_its_tokenizer_json(copied: Callable[[str], Path], changes: dict[str, bool]) -> None:
    folder = copied("bert")
    change_config(folder, **changes)
    assert_same(folder)


def test_tokens_of_the_settings_are_added(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2")
    size = len(byte_level()["tokenizer.ggml.tokens"])
    flags = {"single_word": False, "lstrip": False, "rstrip": True, "normalized": False, "special": True}
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = config["added_tokens_decoder"] | {str(size): {"content": "<think>", **flags}}
    change_config(folder, added_tokens_decoder=added)
    assert_same(folder, ["a<think>  b", *SAMPLES])
    assert size in vocabulary(folder).tokenizer.encode("a<think>b").ids


def test_tokens_beyond_the_models_vocabulary_are_left_out(folders: dict[str, Path]) -> None:
    """Gemma 3's tokenizer has one for images, which its text models lack."""
    size = len(byte_level()["tokenizer.ggml.tokens"])
    whole, less = vocabulary(folders["qwen2"], size), vocabulary(folders["qwen2"], size - 1)
    assert (whole.size, less.size) == (size, size - 1)
    assert max(less.tokenizer.encode("a<|im_end|>").ids) < size - 1
    assert all(index < size - 1 for index in less.eos_tokens)
    with pytest.raises(ModelFileError, match="a token 1,199, the model's vocabulary ends at 999"):
        vocabulary(folders["qwen2"], 1000)


def test_replies_end_with_every_token_that_a_configuration_names(copied: Callable[[str], Path]) -> None:
    folder = copied("qwen2")
    write_json(folder / "generation_config.json", {"eos_token_id": [7, 9]})
    write_json(folder / "config.json", {"eos_token_id": 8})
    last = len(byte_level()["tokenizer.ggml.tokens"]) - 1
    assert vocabulary(folder).eos_tokens == (last, 7, 9, 8, last - 2)


def test_special_tokens_map_stands_in_for_the_settings(copied: Callable[[str], Path]) -> None:
    folder = copied("llama3")
    (folder / "tokenizer_config.json").unlink()
    bos = len(byte_level()["tokenizer.ggml.tokens"]) - 3
    found = vocabulary(folder)
    assert (found.bos_token, found.add_bos, found.eos_tokens[0]) == (bos, True, bos + 2)


def test_the_template_is_the_sources(folders: dict[str, Path]) -> None:
    assert vocabulary(folders["qwen2"], template="{{ 1 }}").chat_template == "{{ 1 }}"


# ---- folders without a tokenizer.json


def without_tokenizer_json(folder: Path) -> Path:
    (folder / "tokenizer.json").unlink()
    return folder


def test_a_sentencepiece_model_of_llama_is_read(copied: Callable[[str], Path]) -> None:
    folder = without_tokenizer_json(copied("llama2"))
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    added = config["added_tokens_decoder"] | {"902": {"content": "<|im_end|>", **flags, "special": True}}
    added |= {"900": {"content": "<tool>", **flags, "special": False}}
    change_config(folder, added_tokens_decoder=added, add_eos_token=True, eos_token="<|im_end|>")
    found = vocabulary(folder)
    texts = [text for text in SAMPLES if text.strip()]
    theirs = original(folder, add_prefix_space=True)
    for text in texts:
        assert found.tokenizer.encode(text, add_special_tokens=False).ids == theirs.encode(
            text, add_special_tokens=False
        )
    assert (found.bos_token, found.eos_tokens[0], found.frame.after) == (1, 902, (902,))
    assert found.tokenizer.encode("a<tool>").ids[-2:] == [900, 902]


def test_a_sentencepiece_model_of_xlm_roberta_is_read(copied: Callable[[str], Path]) -> None:
    folder = without_tokenizer_json(copied("xlm_roberta"))
    assert_same(folder, [plain(text) for text in SAMPLES])


def test_berts_vocabulary_is_read(copied: Callable[[str], Path]) -> None:
    folder = without_tokenizer_json(copied("bert"))
    assert_same(folder)
    change_config(folder, do_lower_case=False)
    assert_same(folder)
    (folder / "tokenizer_config.json").unlink()
    assert vocabulary(folder).frame.before == (2,)


def test_without_sentencepiece_its_models_are_refused(
    copied: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", None)
    with pytest.raises(UnsupportedModel, match=r"tokenizer.model without tokenizer.json.*edge-appliance\[convert\]"):
        vocabulary(without_tokenizer_json(copied("llama2")))


# ---- refusals


@pytest.mark.parametrize(
    ("name", "file", "content", "reason"),
    [
        ("qwen2", "tokenizer.json", "{", r"tokenizer\.json is damaged"),
        ("qwen2", "tokenizer_config.json", "[]", r"tokenizer_config\.json is damaged"),
        ("qwen2", "tokenizer_config.json", '{"added_tokens_decoder": {"x": {}}}', "added_tokens_decoder"),
        (
            "qwen2",
            "tokenizer_config.json",
            '{"added_tokens_decoder": {"5": {"content": "<|im_end|>"}}}',
            r"'<\|im_end\|>' has another id in tokenizer\.json than 5",
        ),
        ("qwen2", "tokenizer_config.json", '{"eos_token": 5}', "eos_token is 5"),
        (
            "qwen2",
            "tokenizer_config.json",
            '{"tokenizer_class": "LlamaTokenizer", "bos_token": "<absent>"}',
            "wants add_bos_token, but there is no bos_token",
        ),
    ],
)
def test_damaged_folders_are_refused(
    copied: Callable[[str], Path], name: str, file: str, content: str, reason: str
) -> None:
    folder = copied(name)
    (folder / file).write_text(content, encoding="utf-8")
    with pytest.raises(ModelFileError, match=reason):
        vocabulary(folder)


@pytest.mark.parametrize(
    ("name", "changes", "reason"),
    [
        ("llama2", {"tokenizer_class": "T5Tokenizer"}, "of the class 'T5' without"),
        ("llama2", {"legacy": False}, "not legacy"),
        ("bert", {"tokenizer_class": "RoFormerTokenizer"}, "of the class 'RoFormer' without"),
        ("bert", {"tokenize_chinese_chars": False}, "tokenize_chinese_chars"),
    ],
)
def test_older_folders_of_other_kinds_are_refused(
    copied: Callable[[str], Path], name: str, changes: dict[str, Any], reason: str
) -> None:
    folder = without_tokenizer_json(copied(name))
    change_config(folder, **changes)
    with pytest.raises(UnsupportedModel, match=reason):
        vocabulary(folder)


def test_a_folder_without_any_tokenizer_is_refused(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {})
    with pytest.raises(ModelFileError, match=r"no tokenizer\.json, none of tokenizer\.model"):
        vocabulary(tmp_path)
