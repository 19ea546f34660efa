"""The benchmark behind ``make bench``: gittheta beside git-lfs, as whole git commands on a generated model."""
