"""How the bundled story model is made: a story generator, a small Llama in torch, a training script."""
