"""What people would rather see than read, of experiments with streams.

A view computes its data, which --json writes, and draws from that alone.

sparsity  changed fraction by layer (of all pictures, by channel of one, between two given ones) and over the picture's,
          bytes by layer (raw, measured deltas, predicted ones), and how far predictions are off
runs      latency by number of pictures in flight, seconds by layer and worker
figure    how all of them are drawn and saved (matplotlib)
"""
