"""What users measure of their own set-up, as `cutset bench`. Comparisons with other programs are in `benchmarks/`."""
