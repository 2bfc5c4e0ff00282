"""Where the time of every picture went.

spans    what parties note
lanes    what a party does at the same time
gantt    a timeline as a chart, SVG or HTML
"""
