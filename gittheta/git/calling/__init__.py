"""How Git comes to call gittheta: by which program, and as a hook by settings or beside other hooks."""
