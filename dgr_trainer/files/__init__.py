"""Files and folders: atomic writes, text and records read with their locations, compression, logs to resume from."""
