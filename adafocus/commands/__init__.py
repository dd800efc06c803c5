"""Groups of commands, of which `adafocus.cli` makes one command line."""
