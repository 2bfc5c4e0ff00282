"""Objects that are followed from picture to picture, and what they do in zones: as events, in files and over MQTT."""
