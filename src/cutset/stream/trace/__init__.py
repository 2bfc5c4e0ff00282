"""Where the time of every picture went.

spans    what parties note
"""
