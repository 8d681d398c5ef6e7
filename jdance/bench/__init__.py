"""Benchmarks and profiles of programs, and baselines in PyTorch, TensorFlow and C."""
