"""Networks in integers, whose products may be multiplied by somebody else: 8-bit weights, activations of 8 to 12 bits.

`quantising.py` makes one of a network and pictures, `integer_network.py` is what it is, and a directory of it,
`integer_stage.py` runs it. Who multiplies is no business of this package: see `PictureProducts`.
"""
