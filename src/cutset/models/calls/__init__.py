"""How families write tool calls and reasoning, read while they come: one small file a format."""
