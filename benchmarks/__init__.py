"""Cutset beside other programs, and its own claims: run from a checkout as `python -m benchmarks NAME`.

What users measure of their own set-up is `cutset bench NAME`, in `cutset.bench`; this package puts opponents beside it,
clients and faults that mean harm, targets, and makes BENCHMARKS.md. It is no part of the wheel.
"""
