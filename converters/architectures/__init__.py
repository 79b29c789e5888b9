"""One file per model architecture: its configuration, tensor names and graph."""
