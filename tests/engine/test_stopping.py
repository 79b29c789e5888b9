"""Stop strings come out whole or not at all, however the text is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from appliance.engine.stopping import StopGate, partial_suffix

TEXT = st.text("ab<|", max_size=30)


@given(st.lists(st.text("ab<|", max_size=4)), st.lists(st.text("ab<|", min_size=1, max_size=4), max_size=3))
def test_any_cutting_gives_the_same_text(pieces: list[str], stops: list[str]) -> None:
    gate = StopGate(tuple(stops))
    out, stopped = "", False
    for piece in pieces:
        text, stopped = gate.push(piece)
        out += text
        if stopped:
            break
    if not stopped:
        out += gate.flush()
    whole = "".join(pieces)
    hits = [at for stop in stops if (at := whole.find(stop)) >= 0]
    assert stopped == bool(hits)
    if not hits:
        assert out == whole
    else:  # the stop string that completes first wins
        assert whole.startswith(out)
        assert any(whole.startswith(stop, len(out)) for stop in stops)
        assert not any(stop in out for stop in stops)


def test_nothing_is_held_back_longer_than_needed() -> None:
    gate = StopGate(("<|end|>",))
    assert gate.push("a <") == ("a ", False)
    assert gate.push("b") == ("<b", False)
    assert gate.push("<|end|") == ("", False)
    assert gate.push("> tail") == ("", True)


@given(TEXT, st.text("ab<|", min_size=1, max_size=5))
def test_partial_suffix_is_the_longest(text: str, stop: str) -> None:
    length = partial_suffix(text, stop)
    assert text.endswith(stop[:length])
    assert length < len(stop)
    assert not any(text.endswith(stop[:longer]) for longer in range(length + 1, len(stop)))
