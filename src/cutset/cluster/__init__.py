"""A coordinator and its workers: stages of any graph on any machines.

messages      what parties say to each other; wire: how that goes over links; codecs: both ends of a hop
values        values and weights as arrays; model: a graph with its weights and their digests
stage         what a worker computes with, and inputs: how inputs reach the first stage. Both are handed in
coordinator   sends items into a chain of workers, takes results, makes plans anew when something breaks
worker        a process that computes stages
weight_store  weights by digest, in memory and on disk
item_result   what comes out for an item
launch        starts workers
emulation     links and machines that aren't there
trace         where the time of every item went
"""
