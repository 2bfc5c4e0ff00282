"""Which worker runs which layers, and what that costs. Nothing here needs torch.

plan        a plan, its edges, and its file
problem     what a planner is asked: network, machines, links, sizes, objective
machines    how fast a worker is, and how much it can hold
links       latency and bandwidth of a connection, from what it was seen to carry
line        the same for all links of a line of parties
traffic     what a value costs to cross a cut, by ways to encode it
crossing    the same for all values, cuts and pairs of parties
privacy     which values would show a picture
cost        the one cost model: latency, time between pictures, memory
lattice     the places where a graph may be cut
memory      what stages between all of them need
search      the least latency with all parts under a limit
schedulers  who makes plans
compare     the plans of all schedulers side by side
simulate    pictures through the stages of a plan, event by event
replan      whether another plan is worth a switch
observed    what a run has seen of its machines and values
stale       when what was seen is too old
live        the planner of a run
"""
