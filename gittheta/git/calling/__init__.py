"""How Git comes to call gittheta: by which program, and as a hook by settings, beside other hooks, or in front of them."""
