"""Networks from elsewhere become graphs and tensors: torch modules, through torch.export."""
