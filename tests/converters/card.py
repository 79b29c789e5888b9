"""Where graphs for an accelerator run in tests: on it, where it starts, else on the CPU."""

from __future__ import annotations

from functools import cache

from appliance.engine import providers
from appliance.engine.probe import probe_all
from appliance.engine.providers import Provider


@cache
def no_card() -> str:
    """Why CUDA does not start here; "" if it does."""
    return next(probe.reason for probe in probe_all() if probe.provider is providers.CUDA)


def provider_for(target: str) -> Provider:
    """The provider that runs graphs for `target`, or the CPU's."""
    return providers.CUDA if target == "cuda" and not no_card() else providers.CPU
