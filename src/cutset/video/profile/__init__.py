"""What a network costs here, and what its values cost to send for the pictures of a source.

payloads  bytes and codec seconds of every value, and of the encodings in which a picture may be sent
setup     all of it as a problem for planners
scenario  the same for machines and links that aren't there, from a file
"""
