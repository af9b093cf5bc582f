"""The command `dgr`: one subcommand a stage of the flow, thin shells over the library."""
