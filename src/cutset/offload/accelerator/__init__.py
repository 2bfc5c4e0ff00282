"""The untrusted side: products of matrices, and nothing else."""
