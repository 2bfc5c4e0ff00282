"""What a network costs on this machine: measured, remembered, and kept in files.

layers   seconds of every layer
profile  those and the costs of sending as a file
cache    profiles that were measured before
"""
