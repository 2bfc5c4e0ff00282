"""What people would rather see than read, of experiments with streams.

A view computes its data, which --json writes, and draws from that alone.

changed  changed fraction by layer: of all pictures, by channel of one, between two given ones
spread   a layer's changed fraction over the picture's, with fits
sizes    bytes by layer: raw, measured deltas, predicted ones
errors   how far predictions are off, by picture and layer
costs    seconds by layer and worker
latency  latency by number of pictures in flight
runs     the latencies of a run, from its trace or its JSON
figure   how all of them are drawn and saved (matplotlib)
"""
