"""Sealed models: encrypted on disk, decrypted into memory that nobody can write to, with keys released to evidence."""
