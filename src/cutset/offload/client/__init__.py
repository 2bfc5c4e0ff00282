"""The trusted side: quantises, masks, sends, unmasks, checks."""
