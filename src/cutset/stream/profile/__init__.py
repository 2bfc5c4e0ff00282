"""What a network costs on this machine, and what its values cost to send: measured, remembered, and kept in files.

layers   seconds of every layer
sizes    bytes and codec seconds of every value, for pictures of a source
forms    the same for the forms in which a picture may be sent
profile  both as a file
cache    profiles that were measured before
"""
