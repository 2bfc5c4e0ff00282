"""OpenAI's `/v1/responses`, on top of what answers chats."""
