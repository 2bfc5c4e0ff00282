"""The untrusted side: multiplies."""
