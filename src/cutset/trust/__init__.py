"""Reasons to trust a server: evidence before a request is sent, what is kept of refusals, and receipts after."""
