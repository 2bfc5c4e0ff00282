"""Which worker runs which part of a graph, and what that costs: for any graph, and whatever its items are.

node         what a graph is made of: values, operators, weights
graph        values, nodes in topological order, and what is alive across a cut
description  a graph as JSON
drawing      a graph as SVG or HTML
plan         a plan, its edges, and its file
problem      what a planner is asked: graph, machines, links, sizes, objective
hop          bandwidth and latency of a link
mesh         the same between all parties, where they aren't on a line
estimates    the same, from what connections were seen to carry
traffic      what a value costs to cross a cut, by ways to encode it
profile      what a machine takes for a network, as a file
timing       seconds of every layer, measured
memory       what stages between all cuts need
cost         the one cost model: latency, time between items, memory
lattice      the places where a graph may be cut
search       the least latency with all parts under a limit
schedulers   who makes plans
choices      the plans of all schedulers side by side
machine_file files of machines that aren't there
simulate     items through the stages of a plan, event by event
observed     what a run has seen of its machines and values, and when that is too old
live_planner the planner of a run: whether another plan is worth a switch
"""
