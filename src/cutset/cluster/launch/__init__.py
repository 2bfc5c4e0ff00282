"""What starts workers somewhere and returns their addresses."""
