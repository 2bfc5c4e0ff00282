"""Delta compute: a stage that computes again only what changed since the picture before.

sparse_layers  what computes some positions of a feature map, and which
calls          a node as builders see it
builders       which of torch's operators are computed by positions, and by which layers
onnx_builders  the same of ONNX's
activations    what several nodes compute that are one activation
compiling      from the nodes of a graph to layers, with batch norms and activations joined to what they follow
program        layers in order, the state of a source, an update of it
dense_switch   when the runtime's own dense stage is quicker
glance         how much changes, while it is computed dense anyway
delta_stage    the stage that workers run
box_agreement  how far detections agree with dense ones
measuring      how much of every layer was computed, and how well that was foreseen
"""
