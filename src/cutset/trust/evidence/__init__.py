"""Evidence: a quote of an enclave or of a confidential machine, bound to the key of one channel, and its check.

`statement` says what a quote is bound to, `providers` make quotes, `policy` says which are enough, `verifier` decides,
and `transport` sends no byte of a request before it has. docs/trust.md has the formats.
"""
