"""What goes out with a release: hashes, a list of what is in it, and whether the same bytes come out again."""
