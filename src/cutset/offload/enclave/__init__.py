"""The client in an enclave: what is measured, how large it must be, its Gramine manifest, and a linter for any."""
