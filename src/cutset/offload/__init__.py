"""Private offload: a trusted client, and an accelerator that multiplies and learns nothing."""
