"""Which worker runs which layers, and what that costs.

plan     a plan, its edges, and its file
"""
