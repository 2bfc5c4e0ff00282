"""One network over several machines, layer by layer, for the pictures of a video. What computes needs torch.

    node         values, and layers that read some and make others
    graph        layers in order, and the legal cuts
    export       a torch module becomes a graph and its tensors
    stage        runs a part of a graph
    zoo          AlexNet, VGG, GoogLeNet, ResNet50
    description  a graph as JSON, and its digest
    drawing      a graph as SVG or HTML
    profile      what layers and values cost here: measured, kept, and made a problem for planners
    planning     plans: which worker runs which layers
    trace        where the time of every picture went
    sources      pictures from files, folders, cameras, streams, arrays, or made up; encoded packets
    sparsity     how much of every value changes: measured and predicted
    views        drawings of experiments
    emulation    links and machines that aren't there
    delta        what crosses a cut: payloads, their encoder and decoder
    messages     what parties say to each other; wire: how that goes over links; hop: the codecs of a hop
    model        a graph with its weights and their digests
    worker       a process that computes stages
    coordinator  sends pictures into a chain of workers, takes results, makes plans anew when something breaks
    api          Stream: all of it from Python

Nothing is imported here: what doesn't compute (tables, drawings, plans, payloads) works without torch.
"""
