"""The big products of a decoder, multiplied by an accelerator that nobody needs to trust."""
