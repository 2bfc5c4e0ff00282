"""How much changes from picture to picture: measured, and predicted for every value of a network.

measure    runs the dense network and compares (torch)
changes    what was measured, its file, its bytes, and what is known of a picture before it is run
layers     what predicts one layer
predictor  what predicts them all, and its file
forecast   bytes of deltas foreseen, from the pictures that came last
fit        training (scikit-learn), and errors on held-out pictures
archive    files of arrays without pickle
"""
