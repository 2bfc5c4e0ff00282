"""Batches in OpenAI's format: files of requests that are answered as the server would answer them, one line each."""
