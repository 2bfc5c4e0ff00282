"""Attacks on split inference: each breaks a historical scheme, and fails on Cutset.

    python -m attacks             prints the table
    pytest tests/attacks          asserts it

The historical schemes are small models, in numpy, of systems that were built or published; they are written to be read.

    setting.py      a tiny model and a prompt
    historical.py   masks in floating point, and a client that believes its server
    careless.py     masks in a ring, the arithmetic right, the checks not
    reading.py      attacks that read the prompt or the activations
    lying.py        attacks that change the answer
    proxy.py        a man in the middle of any link
    ours.py         the same attacks on the real client and accelerator
    statistics.py   is what leaves the client uniform?
    suite.py        the list of all
"""
