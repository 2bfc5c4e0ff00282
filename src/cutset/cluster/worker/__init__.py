"""A worker: a process that holds nothing until a coordinator comes, and then its stages of that coordinator's plans.

server       takes what comes on all links, admits one coordinator
session      what one coordinator says, and the pictures that come for it
preparation  its plans on their way from prepare to ready: weights, stages, links to the next worker
plan_run     one plan's stage: decoders, layers, encoders
pipeline     three threads, so that a picture is decoded, computed and encoded beside its neighbours
weights      tensors by digest: in memory, on disk, or asked for
setting      how it runs, whoever comes
"""
