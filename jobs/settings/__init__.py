"""Options of the command line, presets and recipes."""
