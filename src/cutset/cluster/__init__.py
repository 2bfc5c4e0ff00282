"""A coordinator and its workers: stages of any graph on any machines.

messages     what parties say to each other; wire: how that goes over links; codecs: both ends of a hop
model        a graph with its weights and their digests
coordinator  sends items into a chain of workers, takes results, makes plans anew when something breaks
worker       a process that computes stages
launch       starts workers
emulation    links and machines that aren't there
trace        where the time of every item went
"""
