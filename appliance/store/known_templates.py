"""The chat templates that Ollama knows by name, and the stop strings it gives their models.

Ollama compares a template with copies of those it knows. Here each is known by the marks that it writes around turns.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownTemplate:
    """A name, the texts that all stand in such a template, and the stop strings of its models."""

    name: str
    marks: tuple[str, ...]
    stops: tuple[str, ...]


TOKENS = (
    KnownTemplate("alfred", ("<start_system>", "<start_user>", "<start_assistant>"),
                  ("<start_system>", "<end_message>", "<start_user>", "<start_assistant>")),
    KnownTemplate("command-r", ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>"),
                  ("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>")),
    KnownTemplate("gemma3-instruct", ("<start_of_turn>", "<end_of_turn>", "<start_of_image>"), ("<end_of_turn>",)),
    KnownTemplate("gemma-instruct", ("<start_of_turn>", "<end_of_turn>"), ("<start_of_turn>", "<end_of_turn>")),
    KnownTemplate("llama3-instruct", ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
                  ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")),
    KnownTemplate("openchat", ("<|end_of_turn|>", "GPT4 Correct"), ("<|end_of_turn|>",)),
    KnownTemplate("phi-3", ("<|user|>", "<|assistant|>", "<|end|>"),
                  ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>")),
    KnownTemplate("zephyr", ("<|user|>", "<|assistant|>", "eos_token"),
                  ("<|system|>", "</s>", "<|user|>", "<|assistant|>")),
    KnownTemplate("chatml", ("<|im_start|>", "<|im_end|>"), ("<|im_start|>", "<|im_end|>")),
)  # fmt: skip
"""Those that mark turns with control tokens, the more particular ones first."""

WORDS = (
    KnownTemplate("codellama-70b-instruct", ("Source:", "Destination:", "<step>"),
                  ("Source:", "Destination:", "<step>")),
    KnownTemplate("llama2-chat", ("[INST]", "[/INST]", "<<SYS>>"), ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")),
    KnownTemplate("mistral-instruct", ("[INST]", "[/INST]"), ("<|im_start|>", "<|im_end|>")),
    KnownTemplate("magicoder", ("@@ Instruction", "@@ Response"), ("@@ Instruction", "@@ Response")),
    KnownTemplate("alpaca", ("### Instruction:", "### Response:"), ("### Instruction:", "### Response")),
    KnownTemplate("starcoder2-instruct", ("### Instruction", "### Response"),
                  ("### Instruction", "### Response", "<|endoftext|>")),
    KnownTemplate("solar-instruct", ("### User:", "### Assistant:"), ("### System:", "### User:", "### Assistant")),
    KnownTemplate("granite-instruct", ("System:", "Question:", "Answer:"), ("System:", "Question:", "Answer:")),
    KnownTemplate("chatqa", ("System:", "User:", "Assistant:"),
                  ("System:", "User:", "Assistant:", "<|begin_of_text|>")),
    KnownTemplate("falcon-instruct", ("User:", "Assistant:"), ("User:", "Assistant:")),
)  # fmt: skip
"""Those that mark turns with words, which answers may also hold: only a template that is about nothing else is one."""


def known_template(chat_template: str) -> KnownTemplate | None:
    """The one that a Jinja template is, None for all others."""
    candidates = TOKENS if "tool" in chat_template else TOKENS + WORDS
    for known in candidates:
        if all(mark in chat_template for mark in known.marks):
            return known
    return None
