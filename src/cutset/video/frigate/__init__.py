"""Frigate's ZMQ detector protocol, for a network that runs as a stream."""
