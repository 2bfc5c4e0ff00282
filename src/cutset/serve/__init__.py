"""An OpenAI-compatible HTTP server, its metrics, and a dashboard. Needs the extra `serve`."""
