"""One network over several machines, layer by layer, for the pictures of a video. What computes needs torch.

    node         values, and layers that read some and make others
    graph        layers in order, and the legal cuts
    export       a torch module becomes a graph and its tensors
    stage        runs a part of a graph
    zoo          AlexNet, VGG, GoogLeNet, ResNet50
    description  a graph as JSON, and its digest
    drawing      a graph as SVG or HTML
    planning     plans: which worker runs which layers
    trace        where the time of every picture went
    sparsity     how much of every value changes: measured and predicted
    delta        what crosses a cut: payloads, their encoder and decoder

Nothing is imported here: what doesn't compute (tables, drawings, plans, payloads) works without torch.
"""
