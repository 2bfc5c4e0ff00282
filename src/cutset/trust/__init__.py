"""Why whoever reads an answer may believe it: receipts, and a log of them."""
