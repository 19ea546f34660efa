"""Several versions of a checkpoint become one."""
