"""The trusted side: masks, pads, checks."""
