"""One network over several machines, layer by layer, for the pictures of a video. Needs torch (extra `torch`).

    graph      layers, values and legal cuts; knows no torch
    export     a torch module becomes a graph and its tensors
    stage      runs a part of a graph
    zoo        AlexNet, VGG, GoogLeNet, ResNet50
    drawing    a graph as SVG or HTML

Nothing is imported here: what doesn't compute (tables, drawings, plans) works without torch.
"""
