"""Where the time of every item went.

spans    what parties note
align    a party's clock against ours
record   the spans of all parties, on one clock
chrome   a trace as a file that Perfetto opens
lanes    what a party does at the same time
gantt    a timeline as a chart, SVG or HTML
path     one item's way: the parts of its latency
table    what every party did, and every item's latency
"""
