"""The ways in which Git comes to call gittheta as a hook: shims beside other hooks, in a folder of our own, by name."""
