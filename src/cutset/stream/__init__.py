"""A CNN cut by layers: consecutive layers on consecutive machines, the pictures of a video flow through."""
