"""Whether backends agree: outputs and traces compared, forward runs, and result files."""
