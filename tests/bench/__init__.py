"""The benchmark behind ``make bench``: gittheta beside git-lfs and mergekit, mostly as whole git commands."""
