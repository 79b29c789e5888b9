r"""Pre-tokenizers of byte-level BPE vocabularies, by the names that `tokenizer.ggml.pre` gives them.

A pre-tokenizer is a list of patterns applied one after the other; each splits every piece that is left into its
matches and what lies between them. The patterns are those of the models' own tokenizer.json files; which name
goes with which is llama.cpp's table (src/llama-vocab.cpp), which also approximates some patterns; here they are
the originals. Left out, and so refused by name: kimi-k2, whose files have no merges, and whitespace, whose words
with unknown characters no merge leads to.
"""

from __future__ import annotations

from dataclasses import dataclass

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
DIGIT = r"\p{N}"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
DIGITS_FROM_RIGHT = r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))"  # 1,234,567 without its commas
LLAMA3 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{SYMBOLS}|{SPACES}"
QWEN2 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{SYMBOLS}|{SPACES}"
NO_CONTRACTIONS = rf"[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{SYMBOLS}|{SPACES}"
MINICPM5 = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}+|{SYMBOLS}|{SPACES}"
BAILING = rf"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{SYMBOLS}|\s*[\r\n]|\s+(?!\S)|\s+"
EXAONE_MOE = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+"
)
JAIS2 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{SYMBOLS}|\s*[\r\n]+"
    r"|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|\s{8}(?!\S)|\s{4}(?!\S)"
    r"|\s{1,2}(?!\S)|\s{1}"
)
BLOOM = " ?[^(\\s|.,!?…。，、।۔،)]+"
LINES = r"[^\n]+|[\n]+"
QWEN35 = (
    rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{SPACES}"
)
SEED_CODER = rf"{CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}"
UPPER, LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED_SYMBOLS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*|\p{{N}}|{CASED_SYMBOLS}|{SPACES}"
)
GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}|{CASED_SYMBOLS}|{SPACES}"
)
YOUTU = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    rf"|\p{{N}}|{CASED_SYMBOLS}|{SPACES}"
)
YOUTU_ASIAN = "[가-힣ㄱ-ㆎ]+|[！…“”‘’—：；，、-〿︰-﹏]+|[ㄅ-ㄯ]+|[一-龥぀-ゟ゠-ヿ]+"
# Letters that have a case, as Unicode knew them then; in numbers, since editors compose some of them.
DEEPSEEK_CASED = (
    r"A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293}\x{295}-\x{2AF}"
    r"\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}"
    r"\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}"
    r"\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}"
    r"\x{1E00}-\x{1F15}\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}"
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}\x{1FC6}-\x{1FCC}"
    r"\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}\x{1FF6}-\x{1FFC}\x{2102}\x{2107}"
    r"\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}"
    r"\x{213C}-\x{213F}\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}"
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}\x{A771}-\x{A787}"
    r"\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}"
    r"\x{10400}-\x{1044F}\x{104B0}-\x{104D3}\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}"
    r"\x{118A0}-\x{118DF}\x{1E900}-\x{1E943}"
)
DEEPSEEK_LETTERS = rf"\s?[{DEEPSEEK_CASED}]+"
DEEPSEEK_PUNCTUATION = r"\s?[!-/:-~！-／：-～‘-‟　-。]+"
HAN = "[一-龥ࠀ-一가-퟿]+"
HAN_AND_KANA = "[一-龥぀-ゟ゠-ヿ]+"
DEEPSEEK3_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{SPACES}"
)
SPARK_WORDS = DEEPSEEK3_WORDS.replace(rf"[\r\n]*|{SPACES}", r"|[\r\n]|\s+(?!\S)|\s+")
AFMOE_ASIAN = (
    r"[\x{4E00}-\x{9FFF}\x{3400}-\x{4DBF}\x{F900}-\x{FAFF}\x{3040}-\x{309F}\x{30A0}-\x{30FF}\x{FF65}-\x{FF9F}\x{2F00}-\x{2FDF}"
    r"\x{0E40}-\x{0E7F}\x{0E80}-\x{0EFF}\x{1780}-\x{17FF}\x{1000}-\x{109F}\x{AA60}-\x{AA7F}\x{A9E0}-\x{A9FF}\x{AC00}-\x{D7AF}"
    r"\x{1100}-\x{11FF}]+"
)
THREE_DIGITS = r"[0-9][0-9][0-9]"


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """How text is cut before merging.

    `whole_words`: a piece that is a token is taken as it is, without merging. `nfc`: the model's own tokenizer
    composes characters first. `add_bos`, `add_sep`: what holds where the file does not say. `spaces`: the vocabulary
    has characters with ▁ for spaces instead of bytes, as SentencePiece's have, and nothing is cut.
    """

    patterns: tuple[str, ...] = ()
    whole_words: bool = False
    nfc: bool = False
    add_bos: bool = False
    add_sep: bool = False
    spaces: bool = False


_GPT2 = PreTokenizer((GPT2,))
_GPT2_NFC = PreTokenizer((GPT2,), nfc=True)  # GPT-NeoX's, which MPT, OLMo and ModernBERT took over
_ROBERTA = PreTokenizer((GPT2,), add_sep=True)
_DIGITS = PreTokenizer((DIGIT, GPT2))
_LLAMA3 = PreTokenizer((LLAMA3,), whole_words=True, add_bos=True)
_LLAMA3_MERGED = PreTokenizer((LLAMA3,))
_QWEN2 = PreTokenizer((QWEN2,), nfc=True)
_QWEN2_AS_IT_IS = PreTokenizer((QWEN2,))
_CASED = PreTokenizer((GPT4O,))
_DEEPSEEK3 = PreTokenizer((r"\p{N}{1,3}", HAN_AND_KANA, DEEPSEEK3_WORDS))
_GROUPED = PreTokenizer((r"\d{1,3}(?=(?:\d{3})*\b)", GPT4O))
_BAILING = PreTokenizer((BAILING,))
_BLOOM = PreTokenizer((BLOOM,))
_SPACES = PreTokenizer(spaces=True)

_SAME: dict[PreTokenizer, str] = {
    _GPT2: "gpt-2 phi-2 jais exaone4 gigachat mellum trillion jina-es jina-de jina-v2-es"
    " jina-v2-de a.x-4.0 granite-docling",
    _GPT2_NFC: "mpt olmo modern-bert",
    _ROBERTA: "roberta-bpe jina-v1-en jina-v2-code",
    _DIGITS: "smollm starcoder refact codeshell exaone minerva-7b mellum2",
    _LLAMA3: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral lfm2 midm-2.0 jina-v5-nano",
    _LLAMA3_MERGED: "dbrx smaug-bpe chatglm-bpe",
    _QWEN2: "qwen2 deepseek-r1-qwen megrez f2llmv2",
    _QWEN2_AS_IT_IS: "stablelm2 hunyuan kormo grok-2 solar-open",
    _CASED: "gpt-4o llama4 kanana2 talkie minimax-m2",
    _DEEPSEEK3: "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    _GROUPED: "tiny_aya cohere2moe",
    _BAILING: "bailingmoe bailingmoe2 llada-moe",
    _BLOOM: "bloom gpt3-finnish poro-chat",
    _SPACES: "gemma4 granite-embed-multi-311m sarvam-moe",
}
_ONLY: dict[str, PreTokenizer] = {
    "command-r": PreTokenizer((DIGIT, GPT2), nfc=True),
    "default": PreTokenizer((r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", THREE_DIGITS)),
    "falcon": PreTokenizer((r"[\p{P}\$\+<=>\^~\|`]+", GPT2, THREE_DIGITS)),
    "glm4": PreTokenizer((LLAMA3,), whole_words=True),
    "minicpm5": PreTokenizer((r"\p{N}{1,3}", MINICPM5), whole_words=True),
    "jais-2": PreTokenizer((JAIS2,)),
    "qwen35": PreTokenizer((QWEN35,), nfc=True),
    "seed-coder": PreTokenizer((SEED_CODER,)),
    "ufakzeka": PreTokenizer((NO_CONTRACTIONS,)),
    "laguna": PreTokenizer((LINES, QWEN2)),
    "exaone-moe": PreTokenizer((EXAONE_MOE,)),
    "tekken": PreTokenizer((TEKKEN,), whole_words=True, add_bos=True),
    "granite-embed-multi-97m": PreTokenizer((GPT4O,), whole_words=True),
    "youtu": PreTokenizer((YOUTU_ASIAN, YOUTU), whole_words=True),
    "viking": PreTokenizer((BLOOM, DIGIT)),
    "superbpe": PreTokenizer((r"\p{N}+", r"(?=(\d{3})+(?!\d))")),
    "chameleon": PreTokenizer(
        (
            "<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", r"([\t\n]|    |  )", DIGIT,
            r"[\p{P}!-/:-@\[-`{-~]", GPT2,
        ),
        add_bos=True,
    ),
    "deepseek-llm": PreTokenizer(
        (r"[\r\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, r"\s+\z", HAN, r"\p{N}+"),
    ),
    "deepseek-coder": PreTokenizer((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN, DIGIT)),
    "spark2_5": PreTokenizer((r"\p{N}{1,3}", HAN_AND_KANA, SPARK_WORDS, DIGIT)),
    "afmoe": PreTokenizer((DIGITS_FROM_RIGHT, AFMOE_ASIAN, DEEPSEEK3_WORDS)),
}  # fmt: skip

PRE_TOKENIZERS: dict[str, PreTokenizer] = _ONLY | {name: cut for cut, names in _SAME.items() for name in names.split()}
