"""Tokens to text and back, on byte-level and SentencePiece-like tokenizers made here."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from appliance.bundle import Bundle
from appliance.errors import ModelFileError, PromptTooLong
from appliance.prompt.tokenizer import Tokenizer

TEXTS = [
    "Hello world",
    " leading",
    "naïve café",
    "日本語 テキスト",
    "👩‍👩‍👧 😀!",
    "a\n\n\tb",
    "",
    "<|im_start|>x<|end|>",
]


def bundle(bos: int | None = None, add_bos: bool = False) -> Bundle:
    return Bundle(
        architecture="llama",
        parameters=1,
        layers=1,
        kv_heads=1,
        head_dim=1,
        hidden_size=1,
        vocab_size=300,
        context_length=64,
        bos_token=bos,
        eos_tokens=(),
        add_bos=add_bos,
        recipe="exact",
        source_digest="",
    )


def byte_level() -> tokenizers.Tokenizer:
    """GPT-2's kind: every byte a token, a few merges across character and word borders."""
    vocabulary = {character: i for i, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("l", "l"), ("Ġ", "w"), ("ð", "Ł"), ("ðŁ", "ĺ"), ("æ", "Ĺ")]
    for left, right in merges:
        vocabulary[left + right] = len(vocabulary)
    tokenizer = tokenizers.Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_start|>", "<|end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("｜é｜", normalized=False)])
    return tokenizer


def sentence_piece() -> tokenizers.Tokenizer:
    """Llama 2's kind: a space in front of the text, `▁` for spaces, bytes for what the vocabulary lacks."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    for piece in ["▁", *"Helowrdab日本", "▁w", "▁H", "lo"]:
        vocabulary[piece] = len(vocabulary)
    merges = [("▁", "w"), ("▁", "H"), ("l", "o")]
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    )
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


BYTE_LEVEL, SENTENCE_PIECE = byte_level(), sentence_piece()
BOTH = pytest.mark.parametrize("inner", [BYTE_LEVEL, SENTENCE_PIECE], ids=["byte level", "sentence piece"])


def streamed(tokenizer: Tokenizer, prompt: list[int], answer: list[int]) -> str:
    stream = tokenizer.stream(prompt)
    return "".join(stream.push(token) for token in answer) + stream.flush()


@pytest.mark.parametrize("text", TEXTS)
@BOTH
def test_decoding_gives_the_encoded_text_back(inner: tokenizers.Tokenizer, text: str) -> None:
    tokenizer = Tokenizer(inner, bundle())
    expected = text.replace("<|im_start|>", "").replace("<|end|>", "") if inner is BYTE_LEVEL else text
    assert tokenizer.decode(tokenizer.encode(text, add_bos=False)) == expected


def test_control_tokens_of_a_markup_are_text() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL, bundle())
    ids = tokenizer.encode("a<|im_start|>b<|end|>", add_bos=False)
    shown = tokenizer.marks(["<|im_start|> call", "</call>"])
    stream = tokenizer.stream((), shown)
    assert "".join(map(stream.push, ids)) + stream.flush() == "a<|im_start|>b"
    assert tokenizer.marks([]) == {}


@given(ids=st.lists(st.integers(0, BYTE_LEVEL.get_vocab_size() - 2), max_size=40))
def test_byte_level_decoding_equals_the_librarys(ids: list[int]) -> None:
    # the last token is left out: the library reads its Latin-1 letter as a byte, llama.cpp and we as itself
    assert Tokenizer(BYTE_LEVEL, bundle()).decode(ids) == BYTE_LEVEL.decode(ids, skip_special_tokens=True)


@given(text=st.text(max_size=40))
def test_sentence_piece_decoding_equals_the_librarys(text: str) -> None:
    ids = SENTENCE_PIECE.encode(text, add_special_tokens=False).ids
    assert Tokenizer(SENTENCE_PIECE, bundle()).decode(ids) == SENTENCE_PIECE.decode(ids, skip_special_tokens=True)


@given(ids=st.lists(st.integers(0, 280), max_size=60))
@BOTH
def test_a_stream_says_what_decoding_the_whole_says(inner: tokenizers.Tokenizer, ids: list[int]) -> None:
    tokenizer = Tokenizer(inner, bundle())
    assert streamed(tokenizer, [], ids) == tokenizer.decode(ids)


@given(prompt=st.text(min_size=1, max_size=20), answer=st.text(max_size=20))
@BOTH
def test_a_stream_continues_its_prompt(inner: tokenizers.Tokenizer, prompt: str, answer: str) -> None:
    tokenizer = Tokenizer(inner, bundle())
    before, after = tokenizer.encode(prompt, False), tokenizer.encode(answer, False)
    assert tokenizer.decode(before) + streamed(tokenizer, before, after) == tokenizer.decode(before + after)


@given(ids=st.lists(st.integers(0, 280), max_size=60))
@BOTH
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(inner: tokenizers.Tokenizer, ids: list[int]) -> None:
    tokenizer = Tokenizer(inner, bundle())
    spelled = b"".join(map(tokenizer.token_bytes, ids)).decode("utf-8", "replace")
    after_a_word = tokenizer.encode("word", add_bos=False)
    assert streamed(tokenizer, after_a_word, ids) == spelled


def test_an_emoji_waits_for_its_last_byte() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL, bundle())
    stream = tokenizer.stream([])
    pieces = [stream.push(token) for token in tokenizer.encode("😀", add_bos=False)]
    assert pieces == ["", "😀"]  # the merge holds three of its four bytes


def test_invalid_bytes_become_replacement_characters_and_hold_nothing_up() -> None:
    tokenizer = Tokenizer(SENTENCE_PIECE, bundle())
    token_of = {byte: 3 + byte for byte in range(256)}
    stream = tokenizer.stream([])
    assert stream.push(token_of[0xFF]) == "\ufffd"
    assert stream.push(token_of[0xE4]) == ""
    assert stream.push(token_of[0x61]) == "\ufffda"
    assert stream.push(token_of[0xE4]) == ""
    assert stream.flush() == "\ufffd"


def test_the_first_token_after_a_prompt_keeps_its_space() -> None:
    tokenizer = Tokenizer(SENTENCE_PIECE, bundle())
    world = tokenizer.encode("world", add_bos=False)
    assert streamed(tokenizer, tokenizer.encode("Hello", False), world) == " world"
    assert streamed(tokenizer, [1], world) == "world"  # nothing but <s> in front
    assert tokenizer.token_text(world[0]) == " w"


def test_control_tokens_are_silent_and_added_words_are_not() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL, bundle())
    ids = tokenizer.encode("<|im_start|><tool_call>｜é｜<|end|>", add_bos=False)
    assert len(ids) == 4
    assert tokenizer.decode(ids) == "<tool_call>｜é｜"
    assert [tokenizer.token_text(token) for token in ids] == ["", "<tool_call>", "｜é｜", ""]


def test_templates_learn_how_control_tokens_are_spelled() -> None:
    tokenizer = Tokenizer(SENTENCE_PIECE, bundle())
    assert [tokenizer.spelling(token) for token in (1, 2, None, 10_000)] == ["<s>", "</s>", "", ""]


def test_ids_that_the_vocabulary_lacks_are_silent() -> None:
    assert Tokenizer(BYTE_LEVEL, bundle()).decode([10_000]) == ""


@pytest.mark.parametrize(
    ("bos", "wanted", "asked", "text", "first"),
    [
        (1, True, True, "a", [1]),
        (1, True, True, "<s>a", [1]),
        (1, True, False, "a", []),
        (1, False, True, "a", []),
        (None, True, True, "a", []),
    ],
)
def test_bos_goes_in_front_once_and_only_when_wanted(
    bos: int | None, wanted: bool, asked: bool, text: str, first: list[int]
) -> None:
    ids = Tokenizer(SENTENCE_PIECE, bundle(bos, wanted)).encode(text, add_bos=asked)
    assert [token for token in ids if token == 1] == ids[: len(first)] == first


def test_lone_surrogates_become_replacement_characters() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL, bundle())
    assert tokenizer.decode(tokenizer.encode("a\ud800b", add_bos=True)) == "a\ufffdb"


def test_a_word_piece_decoder_puts_spaces_between_words() -> None:
    inner = tokenizers.Tokenizer(models.WordPiece({"[UNK]": 0, "un": 1, "##do": 2, "it": 3}, unk_token="[UNK]"))
    inner.decoder = decoders.WordPiece()
    assert Tokenizer(inner, bundle()).decode([1, 2, 3]) == "undo it"


def test_a_decoder_of_another_kind_is_refused() -> None:
    inner = tokenizers.Tokenizer(models.BPE({"a": 0}, []))
    inner.decoder = decoders.CTC()
    with pytest.raises(ModelFileError, match="CTC is not supported"):
        Tokenizer(inner, bundle())


def test_a_missing_or_damaged_file_is_named_without_its_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"^tokenizer\.json cannot be read") as error:
        Tokenizer.load(tmp_path, bundle())
    assert str(tmp_path) not in str(error.value)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ModelFileError, match=r"^tokenizer\.json is damaged"):
        Tokenizer.load(tmp_path, bundle())


def test_a_saved_tokenizer_loads(tmp_path: Path) -> None:
    BYTE_LEVEL.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.load(tmp_path, bundle())
    assert tokenizer.vocab_size == BYTE_LEVEL.get_vocab_size()
    assert tokenizer.decode(tokenizer.encode("all well", add_bos=True)) == "all well"


# ---- what encoders read


def word_piece() -> tokenizers.Tokenizer:
    """BERT's kind, with the length that such files often bring with them."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefgh"]
    inner = tokenizers.Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    inner.add_special_tokens(words[:4])
    inner.enable_truncation(4)
    inner.enable_padding(length=4)
    return inner


CLS, SEP, A = 2, 3, 4


def test_an_encoders_input_has_its_special_tokens_and_is_neither_cut_nor_padded_by_the_file() -> None:
    tokenizer = Tokenizer(word_piece(), bundle())
    found = tokenizer.encode_input("a b c d")
    assert (found.ids, found.needed) == ([CLS, A, A + 1, A + 2, A + 3, SEP], 6)
    assert tokenizer.encode_input("").ids == [CLS, SEP]
    assert tokenizer.encode("a", add_bos=True) == [A]  # the decoders' way adds nothing of its own


def test_a_pair_says_which_text_a_token_is_of() -> None:
    found = Tokenizer(word_piece(), bundle()).encode_pair("a b", "c")
    assert found.ids == [CLS, A, A + 1, SEP, A + 2, SEP]
    assert found.type_ids == [0, 0, 0, 0, 1, 1]


@given(
    text=st.text(alphabet="abc ", max_size=30), other=st.text(alphabet="def ", max_size=30), limit=st.integers(3, 40)
)
def test_cutting_keeps_the_special_tokens_and_the_beginning(text: str, other: str, limit: int) -> None:
    tokenizer = Tokenizer(word_piece(), bundle())
    whole, cut = tokenizer.encode_input(text), tokenizer.encode_input(text, limit)
    assert len(cut.ids) == len(cut.type_ids) == min(whole.needed, limit)
    assert cut.needed == whole.needed == len(tokenizer.encode(text, add_bos=False)) + tokenizer.special_tokens()
    assert cut.ids == [*whole.ids[:-1][: limit - 1], SEP]
    pair = tokenizer.encode_pair(text, other, limit)
    assert len(pair.ids) == min(pair.needed, limit)
    assert pair.ids.count(SEP) == 2
    first = pair.ids[1 : pair.ids.index(SEP)]
    assert first == tokenizer.encode(text, add_bos=False)[: max(0, limit - tokenizer.special_tokens(pair=True))]


def test_a_limit_below_the_special_tokens_is_an_error() -> None:
    tokenizer = Tokenizer(word_piece(), bundle())
    assert tokenizer.encode_input("a", 2).ids == [CLS, SEP]
    with pytest.raises(PromptTooLong) as error:
        tokenizer.encode_pair("a", "b", 2)
    assert (error.value.needed, error.value.limit) == (3, 2)


def test_lone_surrogates_of_a_pair_become_replacement_characters() -> None:
    found = Tokenizer(word_piece(), bundle()).encode_pair("a\ud800", "b")
    assert found.ids == [CLS, 1, SEP, A + 1, SEP]


def test_other_threads_run_while_a_long_text_is_encoded() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL, bundle())
    encoding = threading.Thread(target=tokenizer.encode, args=("Hello world " * 100_000, False))
    encoding.start()
    turns = 0
    while encoding.is_alive():
        time.sleep(0.001)
        turns += 1
    assert turns > 10  # one or two, if they had to wait for it


def test_a_vocabulary_spells_out_its_markers() -> None:
    tokenizer = Tokenizer(BYTE_LEVEL, bundle())
    tokens, markers = tokenizer.vocabulary(300)
    assert len(tokens) == 300
    spelled = {tokens[token] for token in markers}
    assert spelled == {b"<|im_start|>", b"<|end|>", b"<tool_call>"}
    (word,) = BYTE_LEVEL.encode("｜é｜").ids
    assert tokens[word] == "｜é｜".encode()
    assert all(tokens[token] == tokenizer.token_bytes(token) for token in range(300) if token not in markers)
