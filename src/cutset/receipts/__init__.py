"""Receipts of a loaded model's answers: made while they come, and run again."""
