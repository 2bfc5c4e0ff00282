"""One server, several engines of the same model: replicas that answer, and the front that clients talk to."""
