"""The coordinator: the camera's side. Sends pictures into the chain of workers and takes the results.

coordinator  the thread that decides: which plan is wanted, and what to do when something breaks
routes       the plans in use, those that are being left, and the next one
pictures     what is sent when, and what comes out
attendance   which workers are there and fit for work
remote       one worker as seen from here: link, life, clock
switching    a plan on its way to being used
flights      pictures on their way, and the order of results
links        what connections were seen to carry
advisor      tells a planner what was seen, and proposes better plans
even         the plainest plan
summary      figures of a run
feeding      pictures from sources, read ahead by a thread each
result       what comes out
"""
