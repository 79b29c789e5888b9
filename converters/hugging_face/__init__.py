"""Models of Hugging Face folders in GGUF's words: config.json as metadata, checkpoint tensors under GGUF's names.

fields.py    reading a configuration so that no key of it is passed over
rope.py      how positions are stretched
decoders.py  one function for each family of text models
encoders.py  the same for encoders and rerankers
tensors.py   where the bytes of each GGUF tensor lie in the checkpoint
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from appliance.errors import UnsupportedModel
from appliance.store.hugging_face import CONFIG, Files, chat_template, pooling_type, read_object
from converters.hugging_face.decoders import DECODERS
from converters.hugging_face.encoders import ENCODERS
from converters.hugging_face.fields import Description, Fields

FAMILIES: Mapping[str, Callable[[Fields], Description]] = {**DECODERS, **ENCODERS}
"""What reads a configuration, by its model_type."""


def describe(files: Files) -> Description:
    """What config.json, and with sentence-transformers modules.json, say of a model.

    Raises ModelFileError for files that are missing or damaged, UnsupportedModel for any key that changes the
    computation and is not known here.
    """
    config = read_object(files, CONFIG)
    model_type = config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise UnsupportedModel(f"model_type {str(model_type)[:40]!r}", tuple(FAMILIES))
    fields = Fields(config)
    description = FAMILIES[model_type](fields)
    fields.refuse_others()
    metadata: dict[str, Any] = {"general.architecture": description.architecture, "general.type": "model"}
    metadata |= {f"{description.architecture}.{key}": value for key, value in description.metadata.items()}
    pooling = pooling_type(files, config)
    if pooling is not None:
        metadata[f"{description.architecture}.pooling_type"] = pooling
    if template := chat_template(files):
        metadata["tokenizer.chat_template"] = template
    return description.with_metadata(metadata)
