"""An errand a folder: what happens when Git or the user calls."""
