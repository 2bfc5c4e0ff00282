"""Networks from elsewhere become graphs and weights: torch modules through torch.export, and ONNX files."""
