"""Measuring: result files, their comparison across time, and BENCHMARKS.md made from them."""
