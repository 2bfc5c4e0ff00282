"""The coordinator: the side that has the sources. Sends items into the chain of workers and takes the results.

coordinator  the thread that decides: which plan is wanted, and what to do when something breaks
routes       the plans in use, those that are being left, and the next one
dispatch     what is sent when, and what comes out
membership   which workers are there and may be used
remote       one worker as seen from here: link, heartbeats, clock
switching    a plan on its way to being used, and in use
items        items that wait or are in flight, and the order of results
links        what connections were seen to carry
advisor      tells a planner what was seen, and proposes better plans
even         the plainest plan
fitting      whether a plan can be played here
feeding      items from sources, read ahead by a thread each
"""
