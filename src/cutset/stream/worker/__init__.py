"""A worker: a process that holds nothing until a coordinator comes, and then its stages of that coordinator's plans.

server    takes what comes on all links, admits one coordinator
session   what one coordinator wants: plans, weights, links to the next worker
plan_run  one plan's stage: decoders, layers, encoders
pipeline  three threads, so that a picture is decoded, computed and encoded beside its neighbours
weights   tensors by digest: in memory, on disk, or asked for
"""
