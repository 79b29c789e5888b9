"""What the processor's instructions decide."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from appliance import processor


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    processor.product_settings.cache_clear()
    yield
    processor.product_settings.cache_clear()


@pytest.mark.parametrize(
    ("cpuinfo", "widened"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_vnni", False),
        ("flags\t\t: fpu avx2 avx_vnni", False),
        ("flags\t\t: fpu avx2 avx512f", True),
        ("", True),
    ],
)
def test_int8_products_are_widened_where_they_would_be_clipped(
    monkeypatch: pytest.MonkeyPatch, cpuinfo: str, widened: bool
) -> None:
    monkeypatch.setattr(processor, "read_cpuinfo", lambda: cpuinfo)
    assert processor.product_settings() == ({"session.x64quantprecision": "1"} if widened else {})


def test_int8_products_of_this_processor_are_whole() -> None:
    """Two products of 255 · 127 exceed 16 bits."""
    weights = helper.make_tensor("w", TensorProto.INT8, (64, 32), np.full((64, 32), 127, np.int8).tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["y"])],
        "products",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, ("M", 64))],
        [helper.make_tensor_value_info("y", TensorProto.INT32, ("M", 32))],
        [weights],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    for entry in processor.product_settings().items():
        options.add_session_config_entry(*entry)
    session = ort.InferenceSession(model.SerializeToString(), options)
    for rows in (1, 5, 64):
        (y,) = session.run(None, {"x": np.full((rows, 64), 255, np.uint8)})
        assert (y == 255 * 127 * 64).all()
