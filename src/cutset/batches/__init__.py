"""Runs over many items that are killed, go on and give each result once: shards, their manifest, and input lines."""
