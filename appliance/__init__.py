"""The engine and the daemon of the edge appliance. Knows nothing of HTTP."""

from importlib.metadata import version

__version__ = version("edge-appliance")
