"""Networks for the pictures of a video.

imports         a torch module or an ONNX file becomes a graph and its weights
networks        what a user names as a network becomes a model
runtimes        what computes stages: torch, onnxruntime, OpenVINO
torch_stage     runs a part of a graph with torch
zoo             AlexNet, VGG, GoogLeNet, ResNet, MobileNetV3, EfficientNet, ConvNeXt, SSDLite
sources         pictures from files, folders, cameras, streams, arrays, or made up; encoded packets
picture_inputs  the encodings in which a picture may reach the first stage
picture_forms   those of one picture alone: all that there is to one of them
privacy         which values would show a picture
profile         what layers and values cost here, as a problem for planners
sparsity        how much of every value changes: measured and predicted
views           drawings of experiments
"""
