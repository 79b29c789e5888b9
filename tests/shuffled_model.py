"""The real model in float16, computing the same, with its weights off the grid that its file was rounded to.

The residual stream, the inner neurons of each layer and the dimensions of its heads' values are put into a random
order. A block of the new file then holds values of as many blocks of the old one.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter, quants


def write_shuffled(source: Path, target: Path, seed: int = 0) -> Path:
    """Write the llama model `source` shuffled to `target`."""
    reader = GGUFReader(source)
    writer = GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)
    rng = np.random.default_rng(seed)
    shapes = {tensor.name: [int(length) for length in tensor.shape[::-1]] for tensor in reader.tensors}
    hidden, inner_width = shapes["blk.0.ffn_down.weight"]
    head = reader.fields["llama.rope.dimension_count"].contents()
    stream, in_head = rng.permutation(hidden), rng.permutation(head)
    neurons: dict[str, np.ndarray] = {}
    for tensor in reader.tensors:
        values = quants.dequantize(tensor.data, tensor.tensor_type).reshape(shapes[tensor.name])
        layer, kind = tensor.name.rpartition(".")[0].rpartition(".")[::2]
        if kind in ("ffn_gate", "ffn_up", "ffn_down") and layer not in neurons:
            neurons[layer] = rng.permutation(inner_width)
        values = values[stream] if kind in ("attn_output", "ffn_down") or values.ndim == 1 else values[:, stream]
        if kind in ("ffn_gate", "ffn_up"):
            values = values[neurons[layer]]
        elif kind == "ffn_down":
            values = values[:, neurons[layer]]
        elif kind == "attn_v":
            values = values.reshape(-1, head, hidden)[:, in_head].reshape(-1, hidden)
        elif kind == "attn_output":
            values = values.reshape(hidden, -1, head)[:, :, in_head].reshape(hidden, -1)
        writer.add_tensor(tensor.name, values.astype(np.float16 if values.ndim > 1 else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
