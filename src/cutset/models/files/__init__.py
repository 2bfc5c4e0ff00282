"""Files of models, one format a module, and what their readers share: checkpoints, exchange files, integer models."""
