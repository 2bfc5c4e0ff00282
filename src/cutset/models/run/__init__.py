"""What a model computes: executors, the reference one and the native one, and the kernels of the former."""
