"""A worker: a process that holds nothing until a coordinator comes, and then its stages of that coordinator's plans.

worker               takes what comes on all links, admits one coordinator
coordinator_session  what one coordinator says, and the items that come for it
preparation          its plans on their way from prepare to ready: weights, stages, links to the next worker
plan_run             one plan's stage: decoders, layers, encoders
pipeline             three threads, so that an item is decoded, computed and encoded beside its neighbours
neighbour            the link to the next worker
settings             how it runs, whoever comes
"""
