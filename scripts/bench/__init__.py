"""Benchmarks of the appliance beside llama.cpp and onnxruntime-genai: `scripts/bench/run --help`.

Every round runs each contestant in turn, each in processes of its own, and nothing else, so that a machine that grows
slower or faster meets all of them. Figures are medians over the rounds, ratios are medians of the rounds' ratios.
"""
