"""A worker: a process that holds nothing until a coordinator comes, and then its stages of that coordinator's plans.

worker               takes what comes on all links, admits one coordinator
coordinator_session  what one coordinator says, and the items that come for it
preparation          its plans on their way from prepare to ready: weights, stages, links to the next worker
listening            which of its two threads listens
plan_run             one plan's stage: decoders, layers, encoders
pipeline             three threads, so that an item is decoded, computed and encoded beside its neighbours
inputs_ahead         items whose input comes from the coordinator, and all else from the worker before
awaited_item         an item whose hidden states will come, and when
native_item          an item whose step native code runs and sends on
ring_hop             native code that takes the usual item from a ring, runs it, and puts it into the next one
frame_hop            the same from a link over tcp
neighbour            the link to the next worker
worker_settings      how it runs, whoever comes
"""
