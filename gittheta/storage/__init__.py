"""Everything on disk, byte by byte, as ``docs/spec`` says. Knows neither Git nor plugins."""
